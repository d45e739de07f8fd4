"""Operations that captured and compiled steps do faster on a GPU than torch does: max pooling.

``pooling``: windows that touch and do not overlap, as Triton kernels, to the bit what torch's own give. ``replacing`` puts them in
the place of torch's, whatever network asks for them.
"""
