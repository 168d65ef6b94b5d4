"""Adapters under the names of Hugging Face's PEFT: lora (with DoRA), ia3 → names → folder."""
