"""Hugging Face ↔ ours: bert and mapping (names), folder (read, write), model_card, verify."""
