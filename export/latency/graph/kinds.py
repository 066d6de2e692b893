"""ATen's operations by the kind of work that they are. What is named nowhere here and has a tensor in and out is element-wise."""

VIEWS = {
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "t",
        "expand",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "split",
        "chunk",
        "unbind",
    ),
    *(
        "split_with_sizes",
        "alias",
        "detach",
        "as_strided",
        "narrow",
        "_reshape_alias",
        "diagonal",
        "view_as",
        "unflatten",
        "unfold",
    ),
}
# Making a tensor contiguous is what eager torch does after a permutation; a phone's graph has the permutation alone.
COPIES = {"clone", "contiguous", "_to_copy", "copy"}
PERMUTATIONS = {"permute", "transpose", "movedim", "numpy_T"}
SUMS = {"add", "sub", "add_", "sub_"}
LIGHT_ACTIVATIONS = {
    *(
        "relu",
        "relu6",
        "hardtanh",
        "clamp",
        "clamp_min",
        "clamp_max",
        "leaky_relu",
        "prelu",
        "hardswish",
        "hardsigmoid",
    ),
}
ACTIVATIONS = LIGHT_ACTIVATIONS | {
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "elu",
    "exp",
    "erf",
    "softplus",
    "mish",
    "log_sigmoid",
}
REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "var", "var_mean", "linalg_vector_norm", "norm", "cumsum", "argmax"),
    *("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "max_pool2d_with_indices"),
}
NORMS = {"native_layer_norm", "native_group_norm", "layer_norm", "_fused_rms_norm", "rms_norm"}
BATCH_NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm"),
    "_native_batch_norm_legit",
}
MOVES = {
    *(
        "cat",
        "stack",
        "roll",
        "pad",
        "constant_pad_nd",
        "reflection_pad2d",
        "index",
        "index_select",
        "gather",
        "embedding",
        "flip",
    ),
    *(
        "repeat",
        "repeat_interleave",
        "upsample_bilinear2d",
        "upsample_nearest2d",
        "upsample_bicubic2d",
        "_upsample_bilinear2d_aa",
    ),
    *(
        "pixel_shuffle",
        "pixel_unshuffle",
        "im2col",
        "col2im",
        "scatter",
        "index_put",
        "native_channel_shuffle",
        "tril",
        "triu",
    ),
    "channel_shuffle",
}
CONVOLUTIONS = {"convolution", "_convolution", "conv2d", "conv1d"}
PRODUCTS = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul"}
FREE = {"native_dropout", "dropout", "lift_fresh", "_local_scalar_dense", "copy_"}
