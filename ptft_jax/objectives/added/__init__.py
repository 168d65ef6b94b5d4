"""What may be asked of a model beside its task.

regularized   R-Drop, FGM, SMART;  mixup  mixtures of two examples;  distilled  a teacher's outputs
"""
