"""Losses and metrics as sums: totals, pretraining, classification, metrics."""
