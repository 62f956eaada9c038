"""Which nodes of a Ray cluster may run a task: those that are large enough, and where it spoils no measurement."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autocompress.search.records import TRAINING_PART

Place = Literal["anywhere", "here", "elsewhere"]
"""Where a task runs: on any node but those that are spared, on the driver's own node, on any of the others."""


@dataclass(frozen=True)
class Placing:
    """The rules.

    Attributes:
        here: Ray's id of the driver's node.
        cpus: processors that each task takes of its node.
        gpus: share of a GPU that each task takes.
        only_here: tasks need the driver's machine, because it is what is measured; those that only train go to other
            nodes where there are such.
        spare: names or addresses of machines that are measured, on which nothing else may run.
    """

    here: str
    cpus: int
    gpus: float
    only_here: bool = False
    spare: tuple[str, ...] = ()

    def gpus_of(self, values: Mapping[str, Any]) -> float:
        """The share of a GPU that a task takes; on the machine that is measured the turnstile keeps order instead."""
        return 0.0 if self.only_here and not _only_trains(values) else self.gpus

    def choose(self, values: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Place:
        """Where a task is to run.

        Args:
            values: of the task.
            nodes: of the cluster, as `ray.nodes` tells them.
        """
        if not self.only_here:
            return "anywhere"
        return "elsewhere" if _only_trains(values) and self.able(values, "elsewhere", nodes) else "here"

    def able(self, values: Mapping[str, Any], place: Place, nodes: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a node that is alive could run a task there, once nothing else runs on it."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus_of(values)}
        return any(
            node["Alive"]
            and self._is_in(node, place)
            and all(node["Resources"].get(name, 0.0) >= share for name, share in wanted.items())
            for node in nodes
        )

    def selector(self, place: Place, nodes: Sequence[Mapping[str, Any]]) -> str:
        """The same as Ray's selector of nodes by their ids; empty for all of them."""
        if place == "here":
            return self.here
        left_out = [node["NodeID"] for node in nodes if node["Alive"] and not self._is_in(node, place)]
        return f"!in({','.join(left_out)})" if left_out else ""

    def share(self, count: int, nodes: Sequence[Mapping[str, Any]]) -> int:
        """Processors for each of so many trials, so that all of them train at once; at least 1.

        Args:
            count: of the trials.
            nodes: of the cluster, as `ray.nodes` tells them.
        """

        def rooms(place: Place) -> list[int]:
            return [
                int(each["Resources"].get("CPU", 0.0)) for each in nodes if each["Alive"] and self._is_in(each, place)
            ]

        if self.only_here:
            train = rooms("elsewhere") if any(rooms("elsewhere")) else rooms("here")
            most = min([*rooms("here"), max(train, default=0)])  # the other parts take as many of this machine
        else:
            train = rooms("anywhere")
            most = max(train, default=0)
        fitting = [each for each in range(1, most + 1) if sum(room // each for room in train) >= count]
        return max(fitting, default=1)

    def lacking(self, values: Mapping[str, Any]) -> str:
        """What to say where no node could run a task: what is missing and what to do."""
        gpus = self.gpus_of(values)
        room = f"{self.cpus} CPU" + (f" and {gpus:g} GPU" if gpus else "") + " for a trial"
        if self.only_here and not _only_trains(values):
            return f"this machine is measured, and its node has not {room}; start it with 'ray start --num-cpus=N'"
        lower = ", or lower --gpus-per-trial" if gpus else ""
        return f"no node has {room}; start one that has{lower}"

    def _is_in(self, node: Mapping[str, Any], place: Place) -> bool:
        if place == "here":
            return bool(node["NodeID"] == self.here)
        return not (place == "elsewhere" and node["NodeID"] == self.here) and not _is_one_of(node, self.spare)


def _only_trains(values: Mapping[str, Any]) -> bool:
    return values.get("part") == TRAINING_PART


def _is_one_of(node: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a node is a machine of that name or address."""
    for name in names:
        known = {name}
        with contextlib.suppress(OSError):
            known.add(socket.gethostbyname(name))
        if known & {node["NodeManagerAddress"], node["NodeManagerHostname"], node["NodeName"]}:
            return True
    return False
