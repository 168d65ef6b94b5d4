"""What runs of one kind have of their own: data, heads, objective, metrics.

kind             what the page of a run (`runs/train.py`) asks of each
pretraining      masked tokens and next sentences, on a corpus
finetuning       what all kinds of labelled tasks share
classification   labelled texts, or pairs, with classes or scores
span             questions about contexts
tagging          sentences with a tag for each word: entities, slots, parts of speech
choice           one of several choices
embedding        vectors of texts
prompted         classes by words that a masked language model fills in
setfit           classes by vectors that were trained on pairs
episodes         classes known by a few texts, others in each episode
several          several tasks, together or one after another
"""
