"""Files of labelled texts, as rows.

reading     tables, JSON lines and folders of texts
labels      classes and scores of rows
conll       tagged words, as sentences
prepared    data sets of TFDS and of Hugging Face's library
"""
