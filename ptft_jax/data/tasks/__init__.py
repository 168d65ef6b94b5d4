"""table (a task is a row of it), reading (tables of text), classification (rows → examples)."""
