"""prepare: survey → vocabulary → encode → writer, remembered in a journal; store reads the result.

making drives them; duplicates and dev_split decide about documents, workers run in processes;
settings, check, statistics.
"""
