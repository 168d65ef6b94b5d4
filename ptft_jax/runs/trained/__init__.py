"""A trained model, asked, scored and handed on.

open         load_run: a run's folder or a Hugging Face folder → Run, with all of these
texts        what is asked, and in which batches
splits       a split of the run's task: its texts, and answers as its benchmark takes them
predictions, embeddings   words, labels, scores; vectors;  by_support  labels of new classes
evaluate     the metrics of its kind
one_task     one of several tasks, as a model of its own
export       a folder for PyTorch
"""
