"""Small trained parts beside frozen parameters.

linear → lora → dora; linear → adalora, ia3; all of them → folding; lora → bottleneck, prompt;
prefix.

linear      what an adapter of a linear map is, and which one a config asks for
lora        a product of two thin matrices is added to the kernel
dora        the same, and the length of each output's weights is learned apart
adalora     the same product with values between, some of which are dropped
ia3         features are scaled
folding     adapters of linear maps into the kernels that they stand beside
bottleneck  a narrow layer within each residual: Houlsby's, Pfeiffer's and the parallel one
prefix      keys and values beside those of the tokens
prompt      tokens in front of the text's, and an MLP of them
"""
