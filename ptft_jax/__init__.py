"""Encoder models in JAX: pretraining, fine-tuning, scoring, and export to Hugging Face PyTorch."""
