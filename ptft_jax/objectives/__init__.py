"""Losses and metrics as sums (totals): pretraining, and one module for each kind of task.

classification, tagging, span, choice   what fine-tuning minimises
embedding                               what vectors of texts are trained for
prototypes                              classes known by a few texts
prompted                                classes by words at a gap
several                                 several tasks, each with columns of its own
added                                   what may be asked of a model beside its task
scores                                  the benchmarks' own scores, on the host
"""
