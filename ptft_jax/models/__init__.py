"""config → layers, dropout → attention (one of attention_backends), fused → encoder, heads → build.

partition maps logical axes to the mesh; device says what a program is traced for; kernels/ has what
GPUs compute in one pass.
"""
