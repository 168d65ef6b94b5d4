"""From labelled files to examples; a kind of task is one module here and one in `runs/kinds`.

catalogue        the one table of tasks
reading          tables of text, as rows
labels           classes and scores of rows
table            labelled texts, or pairs → splits
classification   splits → examples
span             questions about contexts → splits;  span_examples  splits → windows → answers
conll            files of tagged words, as sentences
tags             sentences → splits, with the set of their tags
tagging          splits → examples, and the tag of each word
choice           contexts with choices: splits and examples
submissions      files of predictions as the benchmarks' servers take them
suites           the rows of each benchmark
"""
