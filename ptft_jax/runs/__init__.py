"""A run from its config to its results, without a command line.

config      a config file → a tree of keys;  defaults  the keys and their values
phases      which updates see which settings
folder, record   where a run lives and what it was started with
starting_point   what it starts from: a run or a Hugging Face folder
kinds       what pretraining and fine-tuning have of their own
train       THE page: config → data → model → state → loop → results
lock        one job at a time in a run;  describe  models and meshes in words
trained     a trained model asked, scored and exported
protocols   whose settings a table of scores has;  search_space  what a sweep tries
score_table, sweep_table   several runs as one table
bench       how fast it is
"""
