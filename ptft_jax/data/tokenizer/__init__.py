"""tokenizer (text ↔ ids), models and words behind it.

reading: from files; training: from text, of which sample takes a share.
"""
