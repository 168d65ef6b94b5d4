"""The rows of each benchmark: glue, superglue, clue (Chinese), squad, text_sets, tagging."""
