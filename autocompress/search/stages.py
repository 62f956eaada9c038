"""What a trial leaves in its folder on its way: gate, training up to a rung, trained network, result.

Every stage lies on disk before the next one begins, so a trial that is stopped, held back or lost with its worker goes
on from the last of them, in any worker, and nothing is trained or measured twice.

=========================  ==========================================================================================
``progress.json``          the gate was passed: the `TrialResult` so far, with the rungs that were reached
``training.safetensors``   the training paused: network, optimiser, random numbers, pruning
``trained.safetensors``    the training is over; the network waits for its export and its judgement
``result.json``            the end; the three above are gone then, except of a trial that was stopped at a rung
=========================  ==========================================================================================

Where the machine that is measured is one of several nodes, the stages before and after the training need that machine
and the training does not: a task does one part of a trial then, and the next task, elsewhere, goes on from there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autocompress.paths import make_dir, read_json, write_json
from autocompress.search.records import TRAINING_PART, Part, TrialResult

if TYPE_CHECKING:
    from torch import nn

PROGRESS_FILE = "progress.json"
TRAINING_FILE = "training.safetensors"
TRAINED_FILE = "trained.safetensors"
# Progress last: where it lies, the others that it speaks of do too.
STAGE_FILES = (TRAINING_FILE, TRAINED_FILE, PROGRESS_FILE)


class TrialFiles(Protocol):
    """What the driver asks of what trials left; `TrialFolders` is that on disk."""

    def prepare(self, number: int) -> None:
        """Make room for a trial."""
        ...

    def result(self, number: int) -> TrialResult | None:
        """How a trial ended; None where it did not."""
        ...

    def progress(self, number: int) -> TrialResult | None:
        """How far a trial came that passed the gate."""
        ...

    def save(self, result: TrialResult) -> None:
        """Keep a result that the driver decided on."""
        ...

    def hand_over(self, old: int, new: int) -> None:
        """Let a new trial go on where an earlier one of the same configuration stopped."""
        ...

    def let_go(self, number: int) -> None:
        """Free the room of a paused training; what goes on with it all the same trains from the beginning."""
        ...


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files lie below the folder of its study: ``trials/0000``, ``trials/0001``, ..."""
    return study / "trials" / f"{number:04d}"


def trial_folders(study: Path) -> list[Path]:
    """The folders of all trials that were begun, by number."""
    found = (each for each in (study / "trials").glob("[0-9]*") if each.name.isdecimal())
    return sorted(found, key=lambda each: int(each.name))


class TrialFolders:
    """What trials leave below the folder of their study."""

    def __init__(self, study: Path) -> None:
        self._study = study

    def folder(self, number: int) -> Path:
        """Where a trial's files lie."""
        return trial_folder(self._study, number)

    def prepare(self, number: int) -> None:
        """Create the folder."""
        self.folder(number).mkdir(parents=True, exist_ok=True)

    def result(self, number: int) -> TrialResult | None:
        """Read ``result.json``."""
        return TrialResult.load(self.folder(number))

    def progress(self, number: int) -> TrialResult | None:
        """Read ``progress.json``."""
        return load_progress(self.folder(number), number)

    def save(self, result: TrialResult) -> None:
        """Write ``result.json``."""
        result.save(make_dir(self.folder(result.number)))

    def hand_over(self, old: int, new: int) -> None:
        """Move the stages; what a crash leaves half moved is at worst done again."""
        self.prepare(new)
        for name in STAGE_FILES:
            source = self.folder(old) / name
            if source.exists():
                source.replace(self.folder(new) / name)

    def let_go(self, number: int) -> None:
        """Remove the network and its optimiser, which are most of what lies there."""
        (self.folder(number) / TRAINING_FILE).unlink(missing_ok=True)


def last_results(study: Path) -> list[TrialResult]:
    """What became of each configuration of a study, by number; of one that was taken up again its last trial."""
    found: dict[str, TrialResult] = {}
    for path in trial_folders(study):
        result = TrialResult.load(path)
        if result is not None:
            found[result.config.identifier] = result
    return sorted(found.values(), key=lambda each: each.number)


def load_progress(folder: Path, number: int) -> TrialResult | None:
    """How far a trial came that passed the gate; it may have begun under another number."""
    path = folder / PROGRESS_FILE
    return replace(TrialResult.from_dict(read_json(path)), number=number) if path.exists() else None


def save_progress(folder: Path, result: TrialResult) -> None:
    """Write ``progress.json`` in one step."""
    write_json(folder / PROGRESS_FILE, result.to_dict())


def save_trained(folder: Path, model: nn.Module, *, steps: int, recipe: str | None) -> None:
    """Keep a network whose training is over, and let go of the training's state."""
    from autocompress.training.checkpoint import Checkpoint

    Checkpoint(model.state_dict(), {"steps": steps, "recipe": recipe}).save(folder / TRAINED_FILE)
    (folder / TRAINING_FILE).unlink(missing_ok=True)


def load_trained(folder: Path, model: nn.Module) -> tuple[int, str | None] | None:
    """Put trained weights into a network: steps that were taken and the pruning recipe; None where there are none.

    Raises:
        DataError: the file is damaged.
    """
    from autocompress.training.checkpoint import Checkpoint

    path = folder / TRAINED_FILE
    if not path.exists():
        return None
    kept = Checkpoint.load(path)
    model.load_state_dict(dict(kept.tensors))
    return int(kept.values["steps"]), kept.values["recipe"]


def next_part(folder: Path) -> Part:
    """The part of a trial that comes next, by what lies in its folder."""
    if not (folder / PROGRESS_FILE).exists():
        return "gate"
    return "judgement" if (folder / TRAINED_FILE).exists() else TRAINING_PART


def remove_stages(folder: Path) -> None:
    """The trial is over: nothing goes on from its stages."""
    for name in STAGE_FILES:
        (folder / name).unlink(missing_ok=True)
