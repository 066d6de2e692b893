"""A selection: which samples of a reinforced set are trained on, how often, and why the others are not.

A folder with selection.json (settings, the set it belongs to, counts and histogram per filter) and selection.arrow (an
Arrow IPC file that pyarrow or `datasets` opens: key, index, repeats, dropped_by, reason; one row per sample of the set, in
its order). Making one is the business of `curate`; `SelectedPairs` trains on one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.atomic import read_json, sha256_file, staged_dir, write_json
from distill.core.errors import DistillError, OutputExistsError, UsageError
from distill.core.existing import Existing
from reinforced_data.store.identity import SET_KEY, fresh, set_identity
from reinforced_data.store.names import SELECTION_FILE, SELECTION_ROWS_FILE
from reinforced_data.store.reader import ReinforcedData
from reinforced_data.store.unpaired import UnpairedTexts
from reinforced_data.training.pairs import Pair, StoredPairs

SELECTION_VERSION = 1


@dataclass
class Selection:
    """What filters chose among the N samples of a set.

    Attributes:
        set_sha256: the set's identity, see `store.identity`.
        seed: of the filters' draws.
        steps: per filter, in order: filter, settings, came, kept, draws, dropped (reason -> count), histogram, facts.
        keys: N sample keys, in the set's order.
        repeats: [N] int64, uses per epoch; 0 = dropped.
        why: [N] int32, 0 = kept, else 1 + place in `causes`.
        causes: (filter, reason) pairs; the filter is written "<number>:<name>".
    """

    set_sha256: str
    seed: int
    steps: list[dict[str, Any]]
    keys: list[str]
    repeats: Array
    why: Array
    causes: list[tuple[str, str]]

    @property
    def kept(self) -> int:
        """Samples that are used at least once."""
        return int((self.repeats > 0).sum())

    @property
    def draws(self) -> int:
        """Uses per epoch, repeats counted."""
        return int(self.repeats.sum())

    def facts(self) -> dict[str, Any]:
        """Everything but the samples, as plain JSON."""
        return {
            "schema_version": SELECTION_VERSION,
            SET_KEY: self.set_sha256,
            "seed": self.seed,
            "samples": len(self.keys),
            "kept": self.kept,
            "draws": self.draws,
            "filters": self.steps,
        }

    def save(self, folder: Path, existing: Existing = Existing.REFUSE) -> None:
        """Write both files into the new folder `folder`, atomically: it is there with both, or not at all.

        Args:
            existing: OVERWRITE replaces the selection that is there. There is nothing to resume or to extend.

        Raises OutputExistsError when something is there that is not to be overwritten, UsageError when that is no
        selection, DistillError when no sample is left or the disk cannot be written.
        """
        folder = Path(folder)
        refuse_output(folder, existing)
        if not self.kept:
            raise DistillError(
                "The filters leave no sample, so there is nothing to train on. Look at the histograms of a dry run and "
                "loosen the one that drops most."
            )
        try:
            with staged_dir(folder) as temporary:
                self._write_arrow(temporary / SELECTION_ROWS_FILE)
                record = {**self.facts(), "arrow_sha256": sha256_file(temporary / SELECTION_ROWS_FILE)}
                write_json(temporary / SELECTION_FILE, record)
        except OSError as error:
            raise DistillError(
                f"The selection {str(folder)!r} cannot be written ({error.strerror or error}). Make room or choose "
                "another place."
            ) from error

    def _write_arrow(self, path: Path) -> None:
        import pyarrow as pa

        columns = {
            "key": pa.array(self.keys, pa.string()),
            "index": pa.array(np.arange(len(self.keys)), pa.int64()),
            "repeats": pa.array(self.repeats, pa.int32()),
            "dropped_by": self._named([name for name, _ in self.causes]),
            "reason": self._named([reason for _, reason in self.causes]),
        }
        table = pa.table(columns)
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
        ):
            writer.write_table(table)

    def _named(self, names: list[str]) -> Any:
        """The causes as a column of words: null where the sample is kept."""
        import pyarrow as pa

        words = list(dict.fromkeys(names))
        code = np.asarray([words.index(name) for name in names] or [0], np.int32)
        kept = self.why == 0
        codes = pa.array(code[np.maximum(self.why - 1, 0)], pa.int32(), mask=kept)
        return pa.DictionaryArray.from_arrays(codes, pa.array(words, pa.string()))

    @staticmethod
    def load(folder: Path, data: ReinforcedData | None = None) -> "Selection":
        """The selection in `folder`.

        Args:
            data: the set it is to be used with; refused when it was made for another.

        Raises:
            UsageError: there is none, or it belongs to another set. DistillError: it is damaged or of a later format.
        """
        folder = Path(folder)
        record, table = _read(folder)
        if data is not None and not fresh(record, set_identity(data.manifest)):
            raise UsageError(
                f"The selection {str(folder)!r} was made for another reinforced set than {str(data.folder)!r} (or for it "
                "before it was extended). Make it anew: distill curate."
            )
        pairs = list(zip(table["dropped_by"].to_pylist(), table["reason"].to_pylist(), strict=True))
        causes = [pair for pair in dict.fromkeys(pairs) if pair[0] is not None]
        code = {pair: place for place, pair in enumerate(causes, 1)}
        return Selection(
            set_sha256=record[SET_KEY],
            seed=record["seed"],
            steps=record["filters"],
            keys=table["key"].to_pylist(),
            repeats=table["repeats"].to_numpy().astype(np.int64),
            why=np.asarray([code.get(pair, 0) for pair in pairs], np.int32),
            causes=causes,
        )


def refuse_output(folder: Path, existing: Existing) -> None:
    """Raise unless `folder` is free, or holds a selection that may be replaced (see `Selection.save`)."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists():
        return
    if existing is not Existing.OVERWRITE:
        raise OutputExistsError(f"The output {str(folder)!r} exists. Say --overwrite to replace it, or give another.")
    if not (folder / SELECTION_FILE).is_file():
        raise UsageError(f"{str(folder)!r} is no selection (no {SELECTION_FILE}), so --overwrite will not replace it.")


def _read(folder: Path) -> tuple[dict[str, Any], Any]:
    import pyarrow as pa

    file = folder / SELECTION_FILE
    if not file.is_file():
        raise UsageError(f"There is no selection in {str(folder)!r} (no {SELECTION_FILE}). Make one: distill curate.")
    try:
        record = read_json(file)
        if record["schema_version"] != SELECTION_VERSION:
            raise DistillError(
                f"The selection {str(folder)!r} has schema version {record['schema_version']!r}; this program reads "
                f"{SELECTION_VERSION}. Make it anew: distill curate."
            )
        if sha256_file(folder / SELECTION_ROWS_FILE) != record["arrow_sha256"]:
            raise DistillError(
                f"{str(folder / SELECTION_ROWS_FILE)!r} is damaged (its SHA-256 differs). Make it anew: distill curate."
            )
        with pa.OSFile(str(folder / SELECTION_ROWS_FILE)) as stream:
            return record, pa.ipc.open_file(stream).read_all()
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DistillError(
            f"The selection {str(folder)!r} cannot be read ({error}). Make it anew: distill curate."
        ) from error


class SelectedPairs:
    """`Pairs` of the samples that a selection keeps, each as often as it says (`reinforced_data.training.pairs.Pairs`).

    A repeat is an index of its own, so that an epoch's order and the draws of view and caption treat it like another
    sample. 8 bytes per draw.

    Args:
        pairs: pairs of the whole set. selection: made for that set.

    Raises UsageError when the numbers of samples differ.
    """

    def __init__(self, pairs: StoredPairs, selection: Selection) -> None:
        if len(pairs) != len(selection.keys):
            raise UsageError(
                f"The selection is of {len(selection.keys)} samples and the set has {len(pairs)}. Make it anew: distill "
                "curate."
            )
        self.pairs = pairs
        self.teacher_facts = pairs.teacher_facts
        self.places = np.repeat(np.arange(len(pairs)), selection.repeats)

    @property
    def unpaired(self) -> UnpairedTexts | None:
        """Of the whole set."""
        return self.pairs.unpaired

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> str:
        """What messages call the sample of draw `index`."""
        return self.pairs.key(int(self.places[index]))

    def side(self) -> int:
        """The longer side of the first image of the set, pixels."""
        return self.pairs.side()

    def texts(self, index: int) -> list[str]:
        """Every caption of the sample of draw `index`."""
        return self.pairs.texts(int(self.places[index]))

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """A pair of the sample of draw `index`, its view and captions drawn from `rng`."""
        return self.pairs.pair(int(self.places[index]), rng)

    def captions(self, index: int) -> tuple[list[str], dict[str, Array]]:
        """Every caption of the sample of draw `index`, see `StoredPairs.captions`."""
        return self.pairs.captions(int(self.places[index]))
