"""Checkpoint files: reading one into plain names, and saying why its tensors do not fit a model.

Importable without torch. Left out: conversion between layouts of names (`teachers.open_clip.model` has open_clip do that).
"""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]

# Where training programs (Lightning, timm, open_clip, accelerate, plain loops) keep the model among their other state.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights")
# Segments of names that torch.compile, FSDP, Fabric and activation checkpointing put in, anywhere in a name.
COMPILED = ("_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module")
PARALLEL = "module"  # DataParallel, DistributedDataParallel and torch's AveragedModel, each of which adds one
COUNTER = "n_averaged"  # AveragedModel's own
FOLDED = "reparam_conv"  # what timm's and Apple's reparameterization leaves in place of MobileOne and RepMixer branches
LAYOUTS = {  # first parts of names, all of which occur -> whose they are, and what to do
    ("vision_model", "text_model"): "the transformers package. Name the folder that it lies in, beside its config.json",
    (
        "image_encoder",
        "text_encoder",
    ): "Apple's ml-mobileclip, of another of its models. Name the student or the open_clip model that it is",
    ("optimizer",): "a training program's state, without the model's weights. Name the file of the model",
}


def read_checkpoint(path: Path) -> "dict[str, Tensor]":
    """The tensors of a weights file by plain names, on the CPU, in the file's own dtypes.

    The file is safetensors or of torch.save, whatever it is called; what training programs put around the model (a dict of
    state, "module.", "_orig_mod.") is taken off. Code in a pickle is never run.

    Raises:
        DistillError: the file is missing, cut short, something else than weights, or holds objects other than tensors.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise DistillError(f"{path} cannot be read: {error.strerror or error}.") from None
    # First of all: safetensors begins with a length, whose bytes may be those that begin a zip, a pickle or a web page.
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return plain_names(_unwrap(_safetensors_file(path), path), path)
    if head.startswith(b"version https://git-lfs"):
        raise DistillError(f"{path} is a Git LFS pointer, not the weights. Fetch the file itself (git lfs pull).")
    if head.lstrip()[:1] == b"<":
        raise DistillError(f"{path} is a web page, not weights: the download was answered by one. Download it again.")
    value = _torch_file(path) if head[:2] == b"PK" or head[:1] == b"\x80" else _safetensors_file(path)
    return plain_names(_unwrap(value, path), path)


def _safetensors_file(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        why = f"is damaged, cut short or no weights file ({error})"
        raise DistillError(f"{path} {why}. Copy or download it again.") from None


def _torch_file(path: Path) -> Any:
    import torch

    try:
        with (
            open(path, "rb") as stream,
            warnings.catch_warnings(),
        ):  # a stream: of a path, torch.load believes the ending
            warnings.simplefilter("ignore")  # that this is a TorchScript archive, which the error says too
            return torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        words = " ".join(str(error).split())
        refused = re.search(r"GLOBAL ([\w.]+)", words)
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in words:
            inside = f"an object of {refused[1]}" if refused else "a TorchScript archive or pickled objects"
            raise DistillError(
                f"{path} holds more than tensors ({inside}): loading it would run code that it names, and such files are "
                "never loaded. With the program that made it, save the model's state_dict() as .safetensors, and name that file."
            ) from None
        raise DistillError(f"{path} is damaged or cut short ({words[:200]}). Copy or download it again.") from None


def _unwrap(value: Any, path: Path) -> "dict[str, Tensor]":
    """The mapping of tensors inside `value`, however deep training programs have put it."""
    import torch

    while isinstance(value, Mapping):
        tensors = {str(name): item for name, item in value.items() if isinstance(item, torch.Tensor)}
        inner = next((value[name] for name in WRAPPERS if isinstance(value.get(name), Mapping)), None)
        if inner is None and tensors:
            return tensors
        if inner is None:
            keys = ", ".join(sorted(map(repr, value))[:8]) or "none"
            raise DistillError(f"{path} holds no model's weights. Its keys: {keys}. Name the file of the model itself.")
        value = inner
    raise DistillError(
        f"{path} holds a {type(value).__name__}, not a state dict. Name the file of the model's state dict."
    )


def plain_names(state: "Mapping[str, Tensor]", path: Path) -> "dict[str, Tensor]":
    """`state` without the segments that compiling and training in parallel put into names.

    Raises DistillError when two names become one, which means that the file holds two models.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = [part for part in name.split(".") if part not in COMPILED]
        while parts[0] == PARALLEL and len(parts) > 1:
            parts = parts[1:]
        plain = ".".join(parts)
        if plain in found:
            raise DistillError(
                f"{path} has {plain!r} twice, the second time as {name!r}. Save one of the two models alone."
            )
        found[plain] = tensor
    if COUNTER in found and len(found) > 1:
        del found[COUNTER]
    return found


def load_weights(model: "nn.Module", state: "Mapping[str, Tensor]", *, path: Path, what: str) -> None:
    """Load `state` into `model`, every name with its shape and nothing else; fp16 becomes the model's fp32.

    Args:
        path: the file that `state` was read from.
        what: the model, as the message calls it.

    Raises:
        DistillError: they do not fit; the message names the cause.
    """
    why = misfit(
        {name: tuple(v.shape) for name, v in state.items()}, {k: tuple(v.shape) for k, v in model.state_dict().items()}
    )
    if why:
        raise DistillError(f"{path} cannot be loaded as {what}: {why}")
    model.load_state_dict(state, strict=True)


def misfit(have: Shapes, want: Shapes) -> str:
    """Why tensors of the names and shapes `have` are not those that a model wants: the likeliest cause; "" where they are."""
    if dict(have) == dict(want):
        return ""
    folded = [name for name in have if FOLDED in name.split(".")]
    if folded and not any(FOLDED in name.split(".") for name in want):
        return (
            f"the file is already reparameterized: its training branches are folded into one ({folded[0]!r} and "
            f"{len(folded) - 1} more), which cannot be undone. Take the checkpoint from before reparameterization; "
            "folding is a step of the export here."
        )
    return _misnamed(have, want) or _misshapen(have, want) or _unequal(have, want)


def _misnamed(have: Shapes, want: Shapes) -> str:
    """The causes that show in the first parts of the names; "" for none of them."""
    prefixes = _prefixes(have, want)
    if prefixes:
        quoted = " and ".join(repr(prefix) for prefix in prefixes)
        fix = f"{{name.removeprefix({prefixes[0]!r}): value for name, value in state.items() if name.startswith({prefixes[0]!r})}}"
        several = "" if len(prefixes) == 1 else f" The file holds {len(prefixes)} such models; choose one."
        return f"its names carry the prefix {quoted}, of an object that held the model.{several} Save {fix}."
    outer = _prefixes(want, have)
    if outer and len(have) < len(want):
        return (
            f"it is a part of the model alone: its {len(have)} tensors are those of {outer[0].rstrip('.')!r}, and "
            f"{len(want) - len(have)} others are missing. Name the file of the whole model."
        )
    firsts = {name.split(".")[0] for name in have}
    for parts, whose in LAYOUTS.items():
        if set(parts) <= firsts and not set(parts) & {name.split(".")[0] for name in want}:
            return f"its names are those of {whose}."
    return ""


def _prefixes(longer: Shapes, shorter: Shapes) -> list[str]:
    """What stands before the names `shorter` in `longer`, where it does so for more than half of them, in order."""
    if not shorter:
        return []
    probes = sorted(shorter, key=len)[-8:]  # long names are nobody else's; a few, since some may be missing
    found = {name[: -len(probe)]: None for probe in probes for name in longer if name.endswith(f".{probe}")}
    return [prefix for prefix in found if sum(prefix + name in longer for name in shorter) > len(shorter) / 2]


def _misshapen(have: Shapes, want: Shapes) -> str:
    """Tensors of the right names with other shapes, unless most names are wrong anyway."""
    common = [name for name in want if name in have]
    other = [name for name in common if have[name] != want[name]]
    if not other or len(common) < len(want) / 2:
        return ""
    first = other[0]
    return (
        f"{len(other)} of {len(want)} tensors have other shapes, first {first!r}: {list(have[first])} in the file, "
        f"{list(want[first])} in the model. It is of another size, image size or vocabulary.{_counts(have, want)}"
    )


def _unequal(have: Shapes, want: Shapes) -> str:
    common = sum(name in have for name in want)
    if not common:
        return (
            f"no name of it is a name of this model; it has {_some(have)}, wanted are {_some(want)}. It is of another kind "
            "of model."
        )
    return f"{common} of {len(want)} names agree.{_counts(have, want)} It is of another model, or of another version of it."


def _counts(have: Shapes, want: Shapes) -> str:
    missing = [name for name in want if name not in have]
    surplus = [name for name in have if name not in want]
    text = f" Missing {len(missing)}: {_some(missing)}." if missing else ""
    return text + (f" Unexpected {len(surplus)}: {_some(surplus)}." if surplus else "")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
