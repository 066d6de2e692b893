"""Kinds of operations, by ATen's names."""

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d")
PRODUCTS = ("matmul", "bmm", "baddbmm", "mm", "einsum", "linear", "addmm")
LAYOUT = (
    "reshape", "view", "_unsafe_view", "transpose", "t", "mT", "numpy_T", "permute", "movedim", "cat", "stack", "flatten",
    "unflatten", "expand",
)  # fmt: skip
