"""Questions to a trained model.

texts, splits   what is asked, and in which batches
predictions     words, labels, scores: for each kind a module
few_shot, by_support, choices, tagging, answers
embeddings      vectors
"""
