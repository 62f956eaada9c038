"""Which of several things no other one beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def non_dominated(items: Iterable[_Item], costs: Callable[[_Item], Sequence[float]]) -> list[_Item]:
    """Those that no other one beats in one cost without being worse in another; of equals the first.

    Args:
        items: any values.
        costs: what is minimised, the same number of figures for each.

    Returns:
        By their costs, the first one before the others.
    """
    front: list[tuple[tuple[float, ...], _Item]] = []
    # In this order nothing can be beaten by what comes after it.
    for cost, item in sorted(((tuple(costs(each)), each) for each in items), key=lambda pair: pair[0]):
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other, _ in front):
            front.append((cost, item))
    return [item for _, item in front]
