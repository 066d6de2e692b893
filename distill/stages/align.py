"""Heads over frozen unimodal towers, trained on cached features by the one loop (SAIL, arXiv 2412.04616).

A batch is half pairs of the data, half the image tower's own classifier rows with their class names (noise added), in one
InfoNCE: the class names carry over what the tower knows beyond the captions. Features are computed once and kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.console import Console
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.core.progress import Progress
from distill.learning.loop.trackers import refuse_absent
from distill.processes import WEEK_S, this_place, wait_until
from distill.recipe import Recipe
from distill.run_folder import RunFolder
from distill.stages.label import open_data
from distill.stages.opening import share_run
from distill.stages.training.stops import noting_stops
from reinforced_data.source import Source

if TYPE_CHECKING:
    import torch

    from teachers.towers.features import FeatureCache
    from teachers.towers.heads import AlignmentHeads

CLASS_NOISE = 0.5  # standard deviations per feature, see teachers.towers.features.class_name_pairs
CLASS_SHARE = 3  # one row in three of a batch is a class-name pair


@dataclass(frozen=True)
class FeatureBatch:
    """b pairs of features on this rank: image [b, F_i], text [b, F_t], float32; keys for messages."""

    image: "torch.Tensor"
    text: "torch.Tensor"
    keys: list[str]


def feature_arguments(batch: FeatureBatch, device: "torch.device") -> tuple[Any, ...]:
    """What a `DistillTask` is called with for features: `arguments` of `distill.learning.fit.fit`; no teachers."""
    from distill.learning.loop.feed import to_device

    return to_device(batch.image, device), to_device(batch.text, device), {}, {}


class FeaturePairs:
    """Batches of (image feature, text feature) rows, a pure function of (seed, step).

    Args:
        cache: features of the data's images and captions.
        classes: (image-like [1000, F_i], text [1000, F_t]) extra pairs.
        batch_size: rows over all ranks; rank r takes the r-th of `world` equal parts.

    Raises UsageError where the batch does not divide among the ranks, or takes more images than there are.
    """

    def __init__(
        self,
        cache: Any,
        classes: "tuple[torch.Tensor, torch.Tensor]",
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise UsageError(
                f"A global batch of {batch_size} does not divide among {world} processes. Give another train.batch_size."
            )
        self.part = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        first, count = cache.first_and_count()
        self.usable = np.flatnonzero(count.numpy() > 0)
        self.first, self.count = first.numpy(), count.numpy()
        self.cache, self.classes, self.seed = cache, classes, seed
        self.class_rows = batch_size // CLASS_SHARE
        self.pair_rows = batch_size - self.class_rows
        self.noise_scale = cache.image.float().std(0) * CLASS_NOISE
        _refuse_few(len(self.usable), batch_size)

    def batches(self, first_step: int, last_step: int) -> Iterator[FeatureBatch]:
        """One batch per step, this rank's part of it."""
        import torch

        per_epoch = len(self.usable) // self.pair_rows
        for step in range(first_step, last_step):
            epoch, place = divmod(step, per_epoch)
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.usable)
            images = order[place * self.pair_rows : (place + 1) * self.pair_rows]
            rng = np.random.default_rng([self.seed, 1, step])
            captions = self.first[images] + rng.integers(0, self.count[images])
            chosen = rng.choice(len(self.classes[0]), self.class_rows, replace=False)
            picked = torch.from_numpy(chosen)
            shape = (self.class_rows, self.classes[0].shape[1])
            noise = torch.from_numpy(rng.standard_normal(shape, np.float32)) * self.noise_scale
            keys = [f"image {index}" for index in images] + [f"class {index}" for index in chosen]
            yield FeatureBatch(
                image=torch.cat([self.cache.image[images].float(), self.classes[0][picked] + noise])[self.part],
                text=torch.cat([self.cache.text[captions].float(), self.classes[1][picked]])[self.part],
                keys=keys[self.part],
            )


def _refuse_few(images: int, batch_size: int) -> None:
    """Raise UsageError where there are fewer images with captions than a batch takes."""
    pair_rows = batch_size - batch_size // CLASS_SHARE
    if images < pair_rows:
        raise UsageError(
            f"The data has {images} images with captions, fewer than the {pair_rows} that a batch of {batch_size} takes. Lower it "
            f"with --set train.batch_size={max(2, images)}."
        )


def _square(data: bytes, key: str, size: int) -> "torch.Tensor":
    """An encoded image -> its centred square, [3, size, size] in [0, 1]."""
    import torch

    from reinforced_data.pixels.decode import decode_rgb, square_view
    from reinforced_data.pixels.views import render_view

    image = decode_rgb(data, key)
    return torch.from_numpy(render_view(image, square_view(*image.size), size)).permute(2, 0, 1).float() / 255


def align_towers(recipe: Recipe, run: RunFolder, existing: Existing, console: Console) -> dict[str, int]:
    """Train heads over recipe.towers on recipe.data into the run's teacher/, a teacher by its path.

    Returns the parameters of each head, by side: "image" and "text".

    Raises:
        UsageError: unknown towers, or too little data. DistillError: the towers' packages are missing.
    """
    from teachers.spec import TEACHERS
    from teachers.teacher import TEACHER_LOADERS
    from teachers.towers.features import class_name_pairs
    from teachers.towers.heads import AlignmentHeads, save_heads_teacher

    spec = TEACHERS.get(recipe.towers or "")
    build_towers = TEACHER_LOADERS.get(spec.loader).towers
    if build_towers is None:
        raise UsageError(
            f"{spec.name!r} is a trained teacher, not a pair of towers to align. Known: sail-lite0-minilm."
        )
    if recipe.train.ema is not None:
        raise UsageError("train.ema is for students; heads over frozen towers have no average. Leave it out.")
    refuse_absent(recipe.train.trackers)
    source = open_data(recipe)
    _refuse_few(len(source), recipe.train.batch_size)  # at most so many; exactly, when their features are there
    towers = build_towers()
    share_run(run, recipe, existing, verb="train")
    if this_place().rank == 0:
        console.log_to(run.log)
    heads = AlignmentHeads()
    counts = {side: sum(p.numel() for p in getattr(heads, side).parameters()) for side in ("image", "text")}
    if run.teacher.exists():
        return counts
    with console.stage("features of the frozen towers") as advance:
        cache = _features(towers, source, spec.image_size, run, advance)
        classes = class_name_pairs(towers, cache)
    place = this_place()
    pairs = FeaturePairs(cache, classes, recipe.train.batch_size, recipe.seed, place.rank, place.world)
    with console.stage("train heads") as advance:
        heads = _train_heads(pairs, recipe, spec.width, run, advance)
    info = {
        "name": spec.name,
        "licence": f"towers {spec.name}: {spec.licence}; heads trained on {source.name} ({source.licence})",
        "commercial": False,
        "data": {"name": source.name, "fingerprint": source.fingerprint, "images": len(source)},
        "seed": recipe.seed,
        "samples": recipe.train.steps * recipe.train.batch_size,
    }
    if this_place().rank == 0:
        save_heads_teacher(run.teacher, heads, info)
    wait_until(run.teacher.exists, f"the first process to write {str(run.teacher)!r}")
    return counts


def _features(towers: Any, source: Source, size: int, run: RunFolder, progress: Progress) -> "FeatureCache":
    """Of the data, kept in the run: the first process computes them, the others wait for the file and read it."""
    from teachers.towers.features import cache_features, cached_features

    if this_place().rank:
        wait_until(
            lambda: cached_features(towers, source, run.features) is not None,
            f"the first process to write {str(run.features)!r}",
            WEEK_S,
        )
    return cache_features(towers, source, run.features, decode=partial(_square, size=size), progress=progress)


def _train_heads(
    pairs: FeaturePairs, recipe: Recipe, width: int, run: RunFolder, progress: Progress
) -> "AlignmentHeads":
    """Heads that begin at random, by the seed, after the recipe's steps on `pairs`."""
    import torch

    from distill.learning.fit import fit
    from distill.learning.objective import Objective
    from distill.learning.task import DistillTask
    from teachers.towers.heads import AlignmentHeads

    torch.manual_seed(recipe.seed)
    heads = AlignmentHeads()
    heads.set_statistics(pairs.cache.image, pairs.cache.text)
    task = DistillTask(heads, Objective(recipe.objective, width, {}), {}, chunk=recipe.train.chunk)
    with noting_stops(run, recipe.train):
        fit(
            task, pairs.batches, feature_arguments, run.checkpoints, run.metrics, optim=recipe.train,
            checkpointing=recipe.train, seed=recipe.seed, progress=progress,
        )  # fmt: skip
    task.settle_scale()
    return heads.eval()
