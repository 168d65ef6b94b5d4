"""Few-shot classification: classes that a model has not seen, by a few texts of each.

splits    texts, or sentences with two marked entities (FewRel's format), of classes
drawing   which of them an episode has
examples  episodes → batches
"""
