"""A trained model, asked, scored and handed on.

open         load_run: a run's folder or a Hugging Face folder → Run, with all of these
asking       words, labels, answers, vectors
evaluate     the metrics of its kind
one_task     one of several tasks, as a model of its own
export       a folder for PyTorch
"""
