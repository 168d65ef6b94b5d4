"""prepare: survey → vocabulary → encode → writer, remembered in a journal; store reads the result.

making drives them; duplicates decides about documents, workers run in processes; settings, check,
statistics.
"""
