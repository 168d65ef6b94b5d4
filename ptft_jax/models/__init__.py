"""config → layers, dropout → attention, fused → encoder with its heads → build.

partition maps logical axes to the mesh and says for what device a program is traced; kernels/ has
what GPUs compute in one pass, imported only where it runs.
"""
