"""Tags of words.

splits     columns → sentences, with the set of their tags;  prepared  those of `datasets`
examples   splits → windows, and the tag of each word
"""
