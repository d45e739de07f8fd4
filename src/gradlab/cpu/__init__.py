"""Operations that a compiled step does faster on a CPU than torch does: convolutions and the derivative of max pooling.

``winograd``: kernels of 3×3 between many channels. A tile of 4×4 outputs takes 36 multiplications for each pair of channels in
place of 144: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4×4, 3×3). What that saves is paid in
rounding: an output's error is about 1e-5 of the largest output, where a direct convolution's is 2e-6.

``direct``: 5×5 convolutions between few channels, as in a LeNet, where torch's library leaves most of the processor idle.

``pooling``: where windows touch and do not overlap.

The inner loops are in C files, which ``library`` compiles, once for a machine. ``rewriting`` puts the operations into the graph of a
compiled step.
"""
