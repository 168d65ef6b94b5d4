"""What a training needs, and what there is of it.

cost           of a step: memory, FLOPs, bytes;  accelerators  what can be got
memory, storage   what is full
"""
