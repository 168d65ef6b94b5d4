"""Questions about contexts.

splits     SQuAD's format, and tables → questions, contexts, answers
examples   splits → windows → answers
"""
