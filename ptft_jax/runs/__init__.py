"""A run from its config to its results, without a command line.

config      a config file → a tree of keys;  defaults  the keys and their values
phases      which updates see which settings
folder, record   where a run lives and what it was started with
initial     what it starts from: a run or a Hugging Face folder
start_checks   what the processes of a job agree on first
evaluators  whole splits, scored
open        a trained model to be asked: predictions, embeddings, and what texts they take
"""
