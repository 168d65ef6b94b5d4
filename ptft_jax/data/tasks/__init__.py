"""From labelled files to examples; a kind of task is one module here and one in `runs/kinds`.

catalogue        the one table of tasks
files            what is read, as rows
benchmark        a benchmark's labelled texts → splits;  table  one's own tables → splits
classification   splits → examples
span             questions about contexts → splits;  span_examples  splits → windows → answers
tags             sentences → splits, with the set of their tags
tagging          splits → examples, and the tag of each word
choice           contexts with choices: splits and examples
embedding        pairs of texts that are alike: splits and examples
episodes         classes known by a few texts: splits, episodes, examples
prompted         texts in a template with a gap, and the words for it
several          several tasks as one, and which example of which comes when
training         what becomes of training examples before a model sees them
submissions      files of predictions as the benchmarks' servers take them
suites           the rows of each benchmark
"""
