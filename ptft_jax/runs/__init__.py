"""A run from its config to its results, without a command line.

config      a config file → a tree of keys;  defaults  the keys and their values
phases      which updates see which settings;  shapes  what a config makes of model and rows
folder, record   where a run lives and what it was started with
starting_point   what it starts from: a run or a Hugging Face folder
kinds       what pretraining and fine-tuning have of their own
train       THE page: config → data → model → state → loop → results
start_checks   what the processes of a job agree on first;  describe  all of it in words
open        a trained model to be asked: predictions, embeddings, texts; evaluate; export
bench       how fast it is
"""
