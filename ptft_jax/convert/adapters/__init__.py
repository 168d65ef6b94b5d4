"""Adapters in PEFT's form: form → lora → adalora; ia3; virtual → prefix, prompt; → names,
folder."""
