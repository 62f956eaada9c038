"""Predictors of targets, kept between runs: one JSON file for each engine, version, thread count and host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.hardware.agent.protocol import PROTOCOL
from autocompress.hardware.prediction.predictor import Predictor
from autocompress.hardware.targets import Engine, Target
from autocompress.paths import cache_dir, make_dir, read_json, write_json


@dataclass(frozen=True)
class PredictorKey:
    """What a predictor holds for; with another value of any of these it is not used.

    Attributes:
        target: name of the hardware profile.
        engine, version: name of the engine, and its version as it reports it.
        threads: for one inference.
        host: ``id`` of the host.
        device: ``cpu``, ``cuda`` or ``tensorrt-gpu``.
        power_mode: that the profile demands; empty for any.
        options: settings of the engine itself, as sorted JSON.
        protocol: version of the measuring protocol.
    """

    target: str
    engine: str
    version: str
    threads: int
    host: str
    device: str = "cpu"
    power_mode: str = ""
    options: str = "{}"
    protocol: int = PROTOCOL

    @classmethod
    def of(cls, target: Target, engine: Engine) -> PredictorKey:
        """Key of an engine of a resolved target."""
        return cls(
            target=target.name,
            engine=engine.name,
            version=engine.version,
            threads=engine.threads,
            host=str(target.host.get("id", "")),
            device=engine.device,
            power_mode=target.power_mode or "",
            options=json.dumps(dict(engine.options), sort_keys=True),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dict(vars(self))

    @property
    def file_name(self) -> str:
        """Of what is kept under this key: readable, and of no other key."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
        # Names are for people, and come from users' files: only harmless characters become part of a path.
        readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{self.target}-{self.engine}")
        return f"{readable.lstrip('.')}-{digest}.json"


def save_predictor(key: PredictorKey, predictor: Predictor, folder: Path | None = None) -> Path:
    """Keep a predictor, in one step; an earlier one of the same key is replaced.

    Args:
        key: what it holds for.
        predictor: the predictor.
        folder: made where it is missing; None for ``predictors`` in the user's cache.

    Returns:
        Path of its file.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = _path(key, folder)
    make_dir(path.parent)
    write_json(path, {"key": key.to_dict(), "predictor": predictor.to_dict()})
    return path


def load_predictor(key: PredictorKey, folder: Path | None = None) -> Predictor | None:
    """The predictor of that very key; None where there is none.

    Args:
        key: what it must hold for.
        folder: as in `save_predictor`.

    Raises:
        UserError: its file is damaged; one line that says which and what to do.
    """
    path = _path(key, folder)
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, Mapping) or "predictor" not in content:
        raise UserError(f"{path} is not a latency predictor; delete it and calibrate again")
    # The file's name is a digest of the key; a file that was renamed or copied by hand must not be believed.
    if content.get("key") != key.to_dict():
        return None
    return Predictor.from_dict(content["predictor"], str(path))


def _path(key: PredictorKey, folder: Path | None) -> Path:
    return (folder or cache_dir() / "predictors") / key.file_name
