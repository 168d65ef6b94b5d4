"""Text → ids → examples → batches; NumPy only, no JAX.

text/         where text comes from
tokenizer/    text → ids
corpus/       text → token store, once
pretraining/  token store → rows with masks
tasks/        labelled tables → examples
batches       examples → batches, ahead of time;  randomness, ragged
tfds, foreign_files, progress   what several rooms need
"""
