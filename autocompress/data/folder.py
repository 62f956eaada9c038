"""A data set in a folder, whatever its layout: splits by patient, and training slices cached per resolution."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autocompress import paths
from autocompress.data import names
from autocompress.data.cache import atomic_file, cache_folder, locked
from autocompress.data.dataset import SliceSet, Split, Volume
from autocompress.data.layout import Case, Layout, Part, freshness, hold_out
from autocompress.data.preprocess import resize_labels, to_network
from autocompress.errors import DataError, UserError

# Part of every fingerprint and cache name: raise it when preparation changes what comes out.
PREPARATION = 1


class FolderDataset:
    """A `Dataset` over a folder (see `Dataset` for the attributes).

    The first time a data set is seen, all training parts are read once to find the number of classes and anything
    wrong; the answer is cached until a file is touched. Test files are not opened before their volumes are asked for.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        name: str,
        seed: int = 0,
        validation_fraction: float = 0.2,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Open a data set.

        Raises:
            DataError: anything wrong with lists, training data, class names or the split.
        """
        if layout.problems:
            more = len(layout.problems) - 1
            hint = f" (and {more} more: autocompress data describe {layout.root})" if more else ""
            raise DataError(layout.problems[0] + hint)
        self.name = name
        self._layout = layout
        self._splits = _split(layout, seed, validation_fraction)
        facts = _facts(layout)
        self.in_channels = int(facts["channels"])
        self._slice_counts: dict[str, int] = facts["slices"]
        self.class_names = _class_names(layout, class_names, facts)
        self.fingerprint = hashlib.sha256(
            json.dumps(
                [PREPARATION, layout.digest, {split: self.cases(split) for split in self._splits}, self.class_names]
            ).encode()
        ).hexdigest()[:16]

    def cases(self, split: Split) -> tuple[str, ...]:
        """Names of the cases of a split, in a fixed order."""
        return tuple(case.name for case in self._splits[split])

    def patients(self, split: Split) -> tuple[str, ...]:
        """Names of the patients of a split, in a fixed order."""
        return tuple(dict.fromkeys(case.patient for case in self._splits[split]))

    def volumes(self, split: Split) -> Iterator[Volume]:
        """The cases of a split one after the other, at their own resolution.

        Raises:
            DataError: a case is damaged, or its slices differ in size.
        """
        for case in self._splits[split]:
            yield self._volume(case)

    def slices(self, resolution: int, label_resolution: int | None = None) -> SliceSet:
        """All training slices resized to squares; labels at ``label_resolution`` (``resolution`` by default).

        Made once, one case in memory at a time, and then mapped from the cache, so that several processes share
        the memory. The arrays may be written to; changes stay in this process.
        """
        folder = cache_folder("slices", self.fingerprint)
        side = label_resolution or resolution
        images, labels = folder / f"images-{resolution}.npy", folder / f"labels-{side}.npy"
        with locked(folder / "lock"):
            missing = [path for path in (images, labels) if _open_cached(path) is None]
            if missing:
                self._fill(
                    resolution, images if images in missing else None, side, labels if labels in missing else None
                )
        found = (_open_cached(images), _open_cached(labels))
        if found[0] is None or found[1] is None:
            raise DataError(f"the cache {folder} vanished or is damaged; delete it and run again")
        return SliceSet(found[0], found[1])

    def _fill(self, resolution: int, images: Path | None, side: int, labels: Path | None) -> None:
        """Write the missing ones of the two arrays, part by part."""
        count = sum(self._slice_counts[case.name] for case in self._splits["train"])
        with ExitStack() as stack:
            image_stream = label_stream = None
            if images is not None:
                image_stream = stack.enter_context(atomic_file(images))
                _write_header(image_stream, np.float32, (count, self.in_channels, resolution, resolution))
            if labels is not None:
                label_stream = stack.enter_context(atomic_file(labels))
                _write_header(label_stream, np.uint8, (count, side, side))
            for part in self._train_parts():
                if image_stream is not None:
                    image_stream.write(to_network(part.image, resolution).data)
                if label_stream is not None:
                    label_stream.write(resize_labels(part.label, side).data)

    def _train_parts(self) -> Iterator[Part]:
        for case in self._splits["train"]:
            for files in case.parts:
                yield self._read(files)

    def _read(self, files: tuple[Path, ...]) -> Part:
        part = self._layout.read(files)
        highest = int(part.label.max())
        if highest >= len(self.class_names):
            raise DataError(beyond(files, highest, len(self.class_names)))
        if part.image.shape[1] != self.in_channels:
            raise DataError(f"{files[0]}: {part.image.shape[1]} channels, the others have {self.in_channels}")
        return part

    def _volume(self, case: Case) -> Volume:
        parts = [self._read(files) for files in case.parts]
        return Volume(
            case=case.name,
            image=np.concatenate([part.image for part in parts]),
            label=np.concatenate([part.label for part in parts]),
            spacing=parts[0].spacing,
        )


def different_sizes(sizes: Mapping[tuple[int, ...], Path]) -> str:
    """One line for slices of one case that cannot be stacked."""
    (one, first), (other, second) = list(sizes.items())[:2]
    return f"{second}: {other[0]}x{other[1]} pixels, but {first.name} of the same case has {one[0]}x{one[1]}"


def beyond(files: Sequence[Path], highest: int, classes: int) -> str:
    """One line for a label value that no class has."""
    return f"{files[-1]}: label value {highest} is beyond the {classes} classes (0 to {classes - 1})"


def _split(layout: Layout, seed: int, fraction: float) -> dict[Split, tuple[Case, ...]]:
    """Put whole patients aside for validation, chosen by hash: alike on every machine and version."""
    if not 0 < fraction < 1:
        raise DataError(f"validation_fraction {fraction} is not between 0 and 1")
    patients = sorted({case.patient for case in layout.train})
    if len(patients) < 2:
        raise DataError(
            f"{layout.root}: {len(patients)} training patient(s); at least two are needed, one of them for validation"
        )
    if not layout.test:
        raise DataError(f"{layout.root}: the test split is empty")
    train, validation = hold_out(layout.train, fraction, str(seed))
    return {"train": train, "validation": validation, "test": layout.test}


def _facts(layout: Layout) -> dict[str, Any]:
    """What reading all training parts tells; cached until a file is touched.

    ``channels`` of an image, ``slices`` by case, the ``highest`` label and the ``file`` that has it.
    """
    folder = cache_folder("datasets")
    key = hashlib.sha256(f"{PREPARATION}:{layout.digest}:{freshness(layout.train)}".encode()).hexdigest()[:16]
    path = folder / f"{key}.json"
    if path.is_file():
        try:
            found = paths.read_json(path)
            if isinstance(found, dict) and {"channels", "slices", "highest", "file"} <= set(found):
                return found
        except UserError:
            pass  # a damaged cache is made again
    highest, where, channels, first = -1, "", 0, ""
    slices: dict[str, int] = {}
    for case in layout.train:
        sizes: dict[tuple[int, ...], Path] = {}
        for files in case.parts:
            part = layout.read(files)
            if channels and part.image.shape[1] != channels:
                raise DataError(f"{files[0]}: {part.image.shape[1]} channels, but {first} has {channels}")
            channels, first = part.image.shape[1], first or str(files[0])
            slices[case.name] = slices.get(case.name, 0) + len(part.image)
            sizes.setdefault(part.label.shape[1:], files[0])
            if len(sizes) > 1:
                raise DataError(different_sizes(sizes))
            if int(part.label.max()) > highest:
                highest, where = int(part.label.max()), str(files[-1].relative_to(layout.root))
    facts = {"channels": channels, "slices": slices, "highest": highest, "file": where}
    with atomic_file(path) as stream:
        stream.write(json.dumps(facts).encode())
    return facts


def _class_names(layout: Layout, given: Sequence[str] | None, facts: dict[str, Any]) -> tuple[str, ...]:
    highest = int(facts["highest"])
    chosen = names.normalise(given, "class_names") if given is not None else names.from_folder(layout.root)
    if chosen:
        if highest >= len(chosen):
            raise DataError(beyond([layout.root / facts["file"]], highest, len(chosen)))
        return chosen
    if highest < 1:
        raise DataError(f"{layout.root}: all training labels are empty (only class 0)")
    return layout.class_names if highest + 1 == len(layout.class_names) else names.numbered(highest + 1)


def _open_cached(path: Path) -> NDArray[Any] | None:
    """Map a cached array; None where it is missing or damaged."""
    try:
        # Copy-on-write: shared between processes, and writable, which torch.from_numpy wants.
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def _write_header(stream: IO[bytes], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
