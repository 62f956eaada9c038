"""What a predictor is made from, kept between runs: the costs of each measured network and how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.hardware.agent.protocol import PROTOCOL
from autocompress.hardware.prediction import GraphCosts, NodeCost, PredictorKey, Sample
from autocompress.paths import cache_dir, make_dir, read_json, write_bytes

FORMAT = 1
_NODE = ("kind", "arithmetic", "macs", "activation_bytes", "weight_bytes", "zeros", "narrowest")


class SampleStore:
    """The samples of one engine on one host, in one JSON file.

    Those of another format, measuring protocol or power state are forgotten, and so are damaged ones: the latency cache
    may still know their latencies.

    Args:
        key: what the samples hold for.
        power: facts about the host's power state that a latency depends on.
        folder: made where it is missing; None for ``calibration`` in the user's cache.
    """

    def __init__(self, key: PredictorKey, power: Any = None, folder: Path | None = None) -> None:
        self._head = json.loads(
            json.dumps({"format": FORMAT, "protocol": PROTOCOL, "key": key.to_dict(), "power": power})
        )
        self.path = make_dir(folder or cache_dir() / "calibration") / key.file_name
        self._samples = self._read()

    def get(self, subject: str) -> Sample | None:
        """The sample of that network; None where there is none."""
        return self._samples.get(subject)

    def put(self, subject: str, sample: Sample) -> None:
        """Keep a sample, in one step; an earlier one of the same network is replaced."""
        self._samples[subject] = sample
        samples = {name: _plain(each) for name, each in self._samples.items()}
        # In one line: with one for each number the file would be ten times as large.
        write_bytes(self.path, json.dumps({**self._head, "samples": samples}, allow_nan=False).encode())

    def forget(self) -> None:
        """Remove all samples."""
        self._samples = {}
        self.path.unlink(missing_ok=True)

    def all(self) -> list[Sample]:
        """Every sample, in an order that does not depend on when it was measured; of equal networks only one."""
        ordered = [sample for _, sample in sorted(self._samples.items())]
        return list({sample.costs: sample for sample in ordered}.values())

    def _read(self) -> dict[str, Sample]:
        if not self.path.exists():
            return {}
        try:
            content = read_json(self.path)
            if not isinstance(content, dict) or any(content.get(name) != self._head[name] for name in self._head):
                return {}
            return {str(name): _sample(values) for name, values in content["samples"].items()}
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            return {}


def _plain(sample: Sample) -> dict[str, Any]:
    costs = sample.costs
    return {
        "label": sample.label,
        "latency_ms": sample.latency_ms,
        "memory_bytes": sample.memory_bytes,
        "precision": costs.precision,
        "weight_bytes": costs.weight_bytes,
        "peak_activation_bytes": costs.peak_activation_bytes,
        "nodes": [[getattr(node, name) for name in _NODE] for node in costs.nodes],
    }


def _sample(values: Mapping[str, Any]) -> Sample:
    nodes = tuple(NodeCost(**dict(zip(_NODE, node, strict=True))) for node in values["nodes"])
    costs = GraphCosts(
        str(values["precision"]), nodes, int(values["weight_bytes"]), int(values["peak_activation_bytes"])
    )
    memory = values["memory_bytes"]
    return Sample(costs, float(values["latency_ms"]), None if memory is None else int(memory), str(values["label"]))
