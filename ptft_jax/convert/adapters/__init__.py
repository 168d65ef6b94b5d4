"""Adapters in the form of PEFT: form → lora → adalora; ia3, prefix; all → names → folder."""
