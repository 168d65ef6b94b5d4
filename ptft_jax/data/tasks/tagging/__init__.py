"""Tags of words.

splits     columns → sentences, with the set of their tags
examples   splits → windows, and the tag of each word
"""
