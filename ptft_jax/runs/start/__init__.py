"""Where a run begins.

starting_point   model, tokenizer and parameters: the run's own, another's, or fresh
partly_trained   what of it stays as it is;  teacher  whom it learns from
"""
