"""Rules of Apple's Neural Engine, for Core ML, Core AI and ExecuTorch's Core ML delegate."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from export.towers.lints.kinds import CONVOLUTIONS, PRODUCTS
from export.towers.lints.rule import Found, Subject, add
from export.towers.lints.rules.any_target import axes_above, open_sizes

if TYPE_CHECKING:
    from export.towers.lints.graph import Graph

UNIT = "ANE"
LOWEST_MASK = -2e4  # what is below overflows once scores are added to it; -1e4 is the usual fill
CLAMP, OVERFLOW = 32752.0, 65504.0  # where matrix products clamp, and where fp16 ends
TOKENS = 512  # queries from which on attention is worth splitting
KERNEL, DILATION, STRIDE, UPSAMPLE, AXIS = 13, 1, 2, 2, 16384
SLICE = 4094  # the last start of a slice that chips before the A16 take
TINY_MACS = 1_000_000


@add(
    "ANE-SHAPE", "E", UNIT,
    says="open sizes run on the CPU: an open text tower took 60 ms there where a fixed one took 3 on the Neural Engine",
    mend="one file per size (export.batch), or several fixed ones in a file (export.coreml.batches)",
    source="coremltools #2022 and its guide on flexible inputs",
)  # fmt: skip
def open_shapes(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Open sizes."""
    yield from open_sizes(graph)


@add(
    "ANE-RANK", "E", UNIT,
    says="the Neural Engine takes tensors of at most five axes, and [b, C, 1, S] best",
    mend="fold two axes into one before the operation",
    source="executorch #11694; ANEForge",
)  # fmt: skip
def rank(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Tensors of six axes and more."""
    yield from axes_above(graph, 5)


@add(
    "ANE-ATTN", "W", UNIT,
    says="attention over long sequences is slow in one piece: 2.4 to 2.8 times as long as split into heads and chunks",
    mend=f"a smaller input or larger patches (fewer than {TOKENS} tokens), or attention per head in chunks of queries",
    source="apple/ml-ane-transformers, apple/ml-stable-diffusion (split_einsum_v2), apple/ml-vision-transformers-ane",
)  # fmt: skip
def long_attention(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Softmaxes over scores of many queries."""
    for softmax in graph.attention():
        queries = softmax.shape[-2] if len(softmax.shape) > 1 else None
        if queries is not None and queries >= TOKENS:
            yield Found(softmax.where, f"{queries} queries of {softmax.shape[-1]} keys")


@add(
    "ANE-EINSUM", "W", UNIT,
    says="opaque einsums and shifted windows are lowered into copies, or not at all",
    mend="matrix products with their axes written out, and windows without shifts",
    source="apple/ml-ane-transformers; iFormer's attention at 512 pixels failed in windows and took 4 ms in chunks",
)  # fmt: skip
def einsums(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """einsum, and roll as shifted windows use it."""
    for operation in graph.of("einsum", "roll"):
        yield Found(operation.where, "a shifted window (roll)" if operation.op == "roll" else "einsum")


@add(
    "ANE-UNFOLD", "E", UNIT,
    says="such models were measured 2 to 10 times slower than their operations cost, or failed, on the Neural Engine",
    mend="take an image tower without it (RepViT, FastViT, MobileNetV4, a ViT)",
    source="published latencies of MobileViTv2, ShuffleNetV2 and EfficientViT",
)  # fmt: skip
def unfolds(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Unfolding, channel shuffles, and attention without scores or without products."""
    for operation in graph.of("im2col", "col2im", "unfold", "fold"):
        yield Found(operation.where, operation.op)
    for operation in graph.of("native_channel_shuffle", "channel_shuffle"):
        yield Found(operation.where, "a channel shuffle")
    for operation in graph.of("transpose"):
        axes = sorted(int(axis) % 5 for axis in operation.args[1:3]) if len(operation.shape) == 5 else []
        if axes == [1, 2] and 1 not in operation.shape[1:3]:
            yield Found(operation.where, "a channel shuffle (groups and channels swapped)")
    if graph.tower == "image":
        products = [one for one in graph.of(*PRODUCTS) if one.activations > 1]
        softmaxes = graph.softmaxes()
        if products and not softmaxes:
            yield Found(products[0].where, "linear attention: products of activations without a softmax")
        if softmaxes and not products:
            yield Found(softmaxes[0].where, "separable attention: a softmax without a product of activations")


@add(
    "ANE-EOT", "E", UNIT,
    says="finding a place by argmax and reading there leaves the Neural Engine, and reads wrongly before the A16",
    mend="pool by comparison and a product (as export does for CLIP's text towers), at a fixed place, or by the mean",
    source="executorch #11615; ANEForge",
)  # fmt: skip
def end_of_text(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """argmax, and reads at places that depend on the input."""
    for operation in graph.of("argmax", "topk", "sort"):
        yield Found(operation.where, operation.op)
    for operation in graph.of("gather", "index", "index_select", "take_along_dim"):
        if operation.moving and (operation.moving[0] or len(operation.moving) == 1):
            yield Found(operation.where, f"{operation.op} into activations")


@add(
    "ANE-EMB", "I", UNIT,
    says="the look-up of token embeddings runs on the CPU, which costs next to nothing",
    mend="nothing: 4 of 606 operations of a published DistilBERT do",
    source="apple/ml-ane-transformers",
)  # fmt: skip
def embeddings(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Embedding tables."""
    for operation in graph.of("embedding"):
        yield Found(operation.where, f"{operation.shape[-1]} wide")


def low_masks(graph: "Graph", below: float) -> Iterator[Found]:
    """Tables and fills of numbers under `below`, -inf among them."""
    for name, table in graph.constants.items():
        if table.is_floating_point() and table.numel() and float(table.detach().min()) < below:
            yield Found(name.rpartition(".")[0], f"{name.rpartition('.')[2]} holds {float(table.detach().min()):.4g}")
    for operation in graph.of("masked_fill", "where", "full", "full_like", "add", "sub", "mul", "rsub"):
        for value in (*operation.args, *operation.node.kwargs.values()):
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < below:
                yield Found(operation.where, f"{operation.op} with {value:.4g}")


@add(
    "ANE-MASK", "E", UNIT,
    says="masks of -inf or of float32's minimum make NaN in fp16, and embeddings without meaning",
    mend="fill with -1e4",
    source="coremltools #2669; UForm #50",
)  # fmt: skip
def masks(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Numbers that fp16 cannot add to a score."""
    yield from low_masks(graph, LOWEST_MASK)


@add(
    "ANE-FP16", "W", UNIT,
    says="numbers clamp, overflow or collapse in fp16, in which the Neural Engine computes",
    mend="train with a weight decay or a norm that keeps them small, or export in fp32",
    source="ANEForge; coremltools #2687, #2690",
)  # fmt: skip
def ranges(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Measured magnitudes where real inputs were run; functions and slices that fp16 or old chips do not take anywhere."""
    if subject.precision != "fp32":
        for operation in graph.operations:
            peak = graph.peaks.get(operation.node.name, 0.0)
            limit = CLAMP if operation.op in (*PRODUCTS, *CONVOLUTIONS) else OVERFLOW
            if peak > limit:
                yield Found(operation.where, f"{operation.op} reaches {peak:.3g}, above {limit:g}")
        for operation in graph.of("softplus", "logsumexp", "mish", "logaddexp"):
            yield Found(operation.where, f"{operation.op}, which collapses above 10 in fp16")
    for operation in graph.of("slice", "narrow", "select"):
        axis, start = operation.argument("dim", 1, 0), operation.argument("start", 2, 0)
        if isinstance(start, int) and isinstance(axis, int) and start > SLICE:
            yield Found(operation.where, f"a slice from {start}, above {SLICE}")


@add(
    "ANE-LN", "W", UNIT,
    says="an epsilon that fp16 rounds to zero lets a norm divide by zero",
    mend="an epsilon of 1e-5 or more; a norm without a mean (RMSNorm) needs 1e-4",
    source="apple/ml-ane-transformers; coremltools #2821",
)  # fmt: skip
def norms(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Epsilons of norms."""
    for operation in graph.of("layer_norm", "native_layer_norm", "group_norm"):
        epsilon = operation.argument("eps", 4, 1e-5)
        if isinstance(epsilon, float) and epsilon < 6e-8:
            yield Found(operation.where, f"{operation.op} with eps {epsilon:g}")
    for operation in graph.of("rms_norm", "_fused_rms_norm"):
        epsilon = operation.argument("eps", 3, None)
        if epsilon is None or (isinstance(epsilon, float) and epsilon < 1e-5):
            yield Found(
                operation.where, f"rms_norm with eps {'of float32' if epsilon is None else format(epsilon, 'g')}"
            )


@add(
    "ANE-SDPA", "W", UNIT,
    says="fused attention gives inf and NaN in fp16 on iOS and macOS 26",
    mend="write it out as two products and a softmax (as export does)",
    source="executorch #15833",
)  # fmt: skip
def fused_attention(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Attention in one call."""
    for operation in graph.operations:
        if "scaled_dot_product" in operation.op or "multi_head_attention" in operation.op:
            yield Found(operation.where, operation.op)


def _numbers(value: Any) -> list[int]:
    return (
        [int(one) for one in value]
        if isinstance(value, (list, tuple))
        else [int(value)]
        if isinstance(value, int)
        else []
    )


@add(
    "ANE-CONV", "W", UNIT,
    says="kernels above 13, dilation, wide pools and long axes run off the Neural Engine",
    mend=f"kernels up to {KERNEL} without dilation, pools with stride 1 or 2, axes up to {AXIS}",
    source="hollance/neural-engine (partly guesses); ANEForge",
)  # fmt: skip
def convolutions(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Convolutions, pools, upsampling and axes beyond what is known to be taken."""
    for operation in graph.of(*CONVOLUTIONS):
        patch = _numbers(operation.argument("stride", 3, [1]))
        kernel = [size or 0 for size in operation.given[1][2:]] if len(operation.given) > 1 else []
        if max(kernel, default=0) > KERNEL and kernel != patch:  # a patch's is one product
            yield Found(operation.where, f"a kernel of {max(kernel)}")
        if max(_numbers(operation.argument("dilation", 5, [1])), default=1) > DILATION:
            yield Found(operation.where, "dilation")
    for operation in graph.of("max_pool2d", "avg_pool2d", "max_pool2d_with_indices"):
        kernel = _numbers(operation.argument("kernel_size", 1, []))
        stride = _numbers(operation.argument("stride", 2, kernel)) or kernel
        if max(kernel, default=0) > KERNEL or max(stride, default=0) > STRIDE:
            yield Found(operation.where, f"a pool of {max(kernel)} with stride {max(stride)}")
    for operation in graph.operations:
        if operation.op.startswith(("upsample", "_upsample")) and operation.given and operation.given[0]:
            before, after = operation.given[0][-1], operation.shape[-1]
            if before and after and after > UPSAMPLE * before:
                yield Found(operation.where, f"upsampling {after / before:g} times")
        if any(size is not None and size > AXIS for size in operation.shape):
            yield Found(operation.where, f"an axis of {max(size or 0 for size in operation.shape)}")


@add(
    "ANE-TOK", "W", UNIT,
    says="an odd number of tokens, as a class token makes it, took 16 and 52 % longer than one less (B/16, L/14); cause not known",
    mend="pool by the mean, without a class token; a number of tokens that 2, better 64, divides",
    source="published latencies of CLIP against SigLIP on the A14",
)  # fmt: skip
def tokens(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Odd sequences of image towers."""
    if graph.tower == "image":
        odd = {softmax.shape[-1]: softmax for softmax in graph.attention() if (softmax.shape[-1] or 0) % 2}
        for count, softmax in odd.items():
            yield Found(softmax.where, f"{count} tokens")


@add(
    "ANE-SPLIT", "I", UNIT,
    says="splits and concatenations of channels cost time: 0.06 and 0.33 ms of 1.1 in one published ablation",
    mend="nothing, or a tower without them",
    source="iFormer's ablations on the iPhone 13",
)  # fmt: skip
def splits(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Channels of pictures that are taken apart or put together."""
    for operation in graph.of("cat", "split", "chunk", "split_with_sizes"):
        if len(operation.shape) == 4 and operation.argument("dim", 1 if operation.op == "cat" else 2, 0) in (1, -3):
            yield Found(operation.where, operation.op)


@add(
    "ANE-SMALL", "I", UNIT,
    says="Core ML may run a program this small on the CPU, where it costs little too",
    mend="nothing: time it on the phone",
    source="coremltools' guide",
)  # fmt: skip
def small(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Towers of next to no work."""
    if graph.macs < TINY_MACS:
        yield Found("", f"{graph.macs / 1e6:.2g} million multiply-adds")
