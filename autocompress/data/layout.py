"""What a reader of a folder layout finds: cases, the files of each, and how to read them."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompress.data.dataset import FloatArray, LabelArray

# ACDC keeps two moments of one heartbeat of a patient: case026f01 and case026f02.
_FRAME = re.compile(r"(?<=\d)_?(?:f|frame|phase)\d+$", re.IGNORECASE)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """What one read gives: a slice (S = 1) or a volume.

    Attributes:
        image: S x C x H x W float32 in 0..1.
        label: S x H x W uint8.
        spacing: millimetres along (slice, row, column).
    """

    image: FloatArray
    label: LabelArray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Case:
    """A volume of a patient.

    Attributes:
        name: unique in its split.
        patient: cases of one patient stay in one split.
        parts: in slice order, the files of each part (one, or an image and its label).
    """

    name: str
    patient: str
    parts: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Layout:
    """A folder in a layout that a reader knows.

    Attributes:
        kind: name of the layout.
        root: the folder.
        train, test: cases; validation is carved out of ``train`` later.
        problems: what is wrong with lists and folders, one line each.
        read: reads one part's files and raises `DataError` naming the file.
        class_names: the customary names for this layout, by number of classes.
        digest: of the lists and of the contents or sizes of all files.
    """

    kind: str
    root: Path
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    problems: tuple[str, ...]
    read: Callable[[tuple[Path, ...]], Part]
    class_names: tuple[str, ...] = ()
    digest: str = ""


def patient_of(case: str) -> str:
    """Patient of a case: its name without a trailing frame such as ``f01`` or ``_frame01``."""
    return _FRAME.sub("", case)


def leaks(train: Sequence[Case], test: Sequence[Case]) -> list[str]:
    """Patients that are in both lists, one line each."""
    tested = {case.patient: case.name for case in test}
    shared = {case.patient: case.name for case in train if case.patient in tested}
    return [
        f"patient {patient} is in the training list ({name}) and in the test list ({tested[patient]}); "
        "remove it from one of them"
        for patient, name in sorted(shared.items())
    ]


def hold_out(cases: Sequence[Case], fraction: float, salt: str) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Put whole patients aside, chosen by hash: alike on every machine and version, whatever else there is.

    Returns:
        The cases that stay and those put aside, both in their order: at least one patient each, where there are two.
    """
    patients = sorted({case.patient for case in cases})
    count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    shuffled = sorted(patients, key=lambda patient: hashlib.sha256(f"{salt}:{patient}".encode()).digest())
    aside = set(shuffled[: max(0, count)])
    return (
        tuple(case for case in cases if case.patient not in aside),
        tuple(case for case in cases if case.patient in aside),
    )


def digest_of(pieces: Sequence[str], train: Sequence[Case], test: Sequence[Case], root: Path) -> str:
    """Digest of a data set that changes with lists, training contents and test sizes.

    Training contents come from the checksums that their formats keep, so nothing is unpacked. Test files are not
    opened before their time, so their names and sizes must do. Times of change are left out: a copied data set
    is the same data set.
    """
    result = hashlib.sha256()
    for piece in pieces:
        result.update(piece.encode() + b"\0")
    for label, cases, stamp in (("train", train, content_stamp), ("test", test, _size)):
        for case in cases:
            for part in case.parts:
                for path in part:
                    line = f"{label}\0{case.name}\0{path.relative_to(root).as_posix()}\0{stamp(path)}\n"
                    result.update(line.encode(errors="surrogateescape"))
    return result.hexdigest()


def freshness(cases: Sequence[Case]) -> str:
    """Digest of places, sizes and times of change: differs when a file was touched, even if only to be damaged."""
    result = hashlib.sha256()
    for case in cases:
        for part in case.parts:
            for path in part:
                try:
                    status = path.stat()
                    result.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
                except OSError:
                    result.update(f"{path}\0missing\n".encode(errors="surrogateescape"))
    return result.hexdigest()


def content_stamp(path: Path) -> str:
    """Checksum of a file's content, from its format where the format keeps one; its size where it is damaged."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return " ".join(f"{entry.filename}:{entry.CRC:08x}" for entry in archive.infolist())
        with path.open("rb") as stream:
            if path.suffix == ".gz":
                # The last eight bytes of gzip are the checksum and the size of the content.
                stream.seek(-8, 2)
                return f"{path.stat().st_size}:{stream.read().hex()}"
            value = 0
            while chunk := stream.read(_CHUNK):
                value = zlib.crc32(chunk, value)
            return f"{path.stat().st_size}:{value:08x}"
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError):
        return _size(path)


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return "missing"
