"""Convolutions with kernels of 3×3 on a CPU by Winograd's algorithm, forward and backward: a compiled step uses them.

A tile of 4×4 outputs takes 36 multiplications for each pair of channels in place of 144: Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (2016), F(4×4, 3×3). What that saves is paid in rounding: an output's error is about 1e-5 of the
largest output, where a direct convolution's is 2e-6.

``transforms`` compiles and calls the transforms between images and tiles, ``convolution`` has the two operations that are made of
them, and ``substitution`` puts these into the graph of a compiled step.
"""
