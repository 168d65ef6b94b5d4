"""Hugging Face ↔ ours: bert, adapters (names), weights, folder (files), model_card
(what it tells of its use: card_use), verify.
"""
