"""The engines of this machine, each with a small two-level network to measure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from autocompress.config import CompressionConfig
from autocompress.hardware.candidates import export_untrained
from autocompress.hardware.targets import Target, inspect_target
from autocompress.specs.library import load_spec


def engines_with_files(names: Sequence[str], resolution: int) -> Iterator[tuple[Target, dict[str, Path]]]:
    """A target with one engine alone, and the file for it; an engine that cannot be used is told and left out.

    Args:
        names: of engines of the target ``cpu``.
        resolution: side of the network's input.
    """
    config = CompressionConfig(resolution=resolution, levels=2, width=0.25)
    for name in names:
        target = inspect_target(load_spec("target", "cpu"), engines=[name])
        if not target.usable:
            print(f"{name:<12} skipped: {next(each.reason for each in target.unusable if each.name == name)}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            yield target, export_untrained(config, target.engines, Path(scratch), family="dae-former")
