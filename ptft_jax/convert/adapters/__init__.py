"""Adapters in PEFT's form: form → lora → adalora; ia3, prefix → prompt; all → names → folder."""
