"""A run from its config to its results, without a command line.

config       a config file → a tree of keys;  defaults  the keys and their values
phases       which updates see which settings;  endings  at the last one, or before
folder, record, lock   where a run lives, what it was started with, one job at a time
start        where it begins;  augmenting  which of its texts change
kinds        what pretraining and fine-tuning have of their own
train        THE page: config → data → model → state → loop → results
range_test   up to which learning rate it is stable;  describe  models and meshes in words
trained      a trained model asked, scored and exported
report       a page on the scores of a fine-tuned run
many         several runs as one table
bench        how fast it is
"""
