"""Kernels for NVIDIA GPUs, one a file, each beside the XLA code that it must agree with.

launch               one call of a kernel: compiled on a GPU, interpreted on a CPU (tests)
short_attention      attention of rows of up to 128 tokens, a whole row in one block
long_attention       attention of longer rows, block by block, past other examples' blocks
scores               what both do to a block of scores: masks, dropout
residual_norm        dropout + residual + LayerNorm
bias_activation      bias + activation

They are written in Pallas for Triton. What replaces that, and when, stands in docs/decisions.md.
"""
