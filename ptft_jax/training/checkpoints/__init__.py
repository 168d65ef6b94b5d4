"""Checkpoints: store (save and restore), async_writer, manifest, arrays, retention, rewind."""
