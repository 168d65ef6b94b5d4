"""Where text comes from: sources (what `inputs` names), files, datasets;

documents, sentences and compression: what they are read with.
"""
