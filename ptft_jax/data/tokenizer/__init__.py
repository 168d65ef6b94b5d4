"""tokenizer (text ↔ ids) and the models behind it; reading: from files; training: from text."""
