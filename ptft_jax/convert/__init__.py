"""Hugging Face ↔ ours: bert, adapters (names), weights, folder (files), model_card, verify."""
