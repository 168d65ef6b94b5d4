"""Encoder models in JAX: pretraining, fine-tuning, scoring, and export to Hugging Face PyTorch."""

import time

# Before JAX is loaded, which takes seconds: the account of a run's time begins here.
BEGAN = time.time()
