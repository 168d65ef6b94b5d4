"""Several runs as one table.

protocols      whose settings the runs of a table have
search_space   what a sweep tries
score_table    tasks and seeds beside published scores
sweep_table    the trials of a sweep, the best first
task_matrix    tasks one after another: what was forgotten, what passed on
files          what all of these are written as
"""
