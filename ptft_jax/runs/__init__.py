"""A run from its config to its results, without a command line.

config      a config file → a tree of keys;  defaults  the keys and their values
phases      which updates see which settings
folder, record   where a run lives and what it was started with
starting_point   what it starts from;  partly_trained  what of it stays as it is;  teacher  whom
                 it learns from
augmenting  which of its texts change, and who writes them anew
endings     at its last update, or before
kinds       what pretraining and fine-tuning have of their own
train       THE page: config → data → model → state → loop → results
range_test  up to which learning rate it is stable
lock        one job at a time in a run;  describe  models and meshes in words
trained     a trained model asked, scored and exported
report      a page on the scores of a fine-tuned run
many        several runs as one table
bench       how fast it is
"""
