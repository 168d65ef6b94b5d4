"""The rows of each benchmark: glue, superglue, clue (Chinese), text_sets, tagging."""
