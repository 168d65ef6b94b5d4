"""What becomes of a task's training examples before a model sees them.

subset          some of them
label_pairs     pairs of them, by class
class_weights   how much each class counts
augmented       texts that change from epoch to epoch;  refilled  by a masked language model
shares          how much of a mixture each is
packed          several in a row
features        what a frozen encoder made of them, in their place
"""
