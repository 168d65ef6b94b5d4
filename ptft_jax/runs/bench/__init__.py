"""What `ptft bench` measures, without a command line.

rounds      sides that take turns, medians and ratios;  machine   what it runs on
work        the rows of a round, and the same examples as PyTorch gets them
train       whole updates;  attention  one layer's attention by each backend
inputs      making batches;  predict  answers of a trained model
hf_process  Hugging Face's model in a process of its own;  hf   that process
"""
