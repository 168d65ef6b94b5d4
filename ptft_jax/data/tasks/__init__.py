"""From labelled files to examples; a kind of task is one module or room here, one in `runs/kinds`.

catalogue        the one table of tasks;  suites  the rows of each benchmark
files            what is read, as rows
benchmark        a benchmark's labelled texts → splits;  table  one's own tables → splits
classification   splits → examples;  prompted  texts in a template with a gap
span, tagging    questions about contexts; tags of words
choice           contexts with choices
embedding        pairs of texts that are alike;  episodes  classes known by a few texts
several          several tasks as one, and which example of which comes when
training         what becomes of training examples before a model sees them
submissions      files of predictions as the benchmarks' servers take them
"""
