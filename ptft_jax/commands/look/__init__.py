"""Commands that only look: status, checkpoints, plan (with its assumptions)."""
