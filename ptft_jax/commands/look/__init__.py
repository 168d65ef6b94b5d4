"""Commands that only look: status, checkpoints, plan (for machines elsewhere), bench (here)."""
