"""A user's own pruning recipe: read and checked before a search begins, and what it leaves of the space."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.hardware.targets import Target
from autocompress.specs.schemas import SearchSpace

MAX_BYTES = 1_000_000
"""A recipe names layers; what is larger is no recipe."""


@dataclass(frozen=True)
class OwnRecipe:
    """A recipe that fits a study.

    Attributes:
        text: the YAML.
        notes: what the user should know, one line each.
    """

    text: str
    notes: tuple[str, ...]


def take_recipe(
    source: str, space: SearchSpace, *, family: str, target: Target, in_channels: int, num_classes: int
) -> OwnRecipe:
    """Read a recipe for a study.

    Args:
        source: path of a SparseML recipe.
        space: the study's space, before the target cut it down.
        family: model family.
        target: where the pruned networks will run.
        in_channels, num_classes: of the data set.

    Raises:
        UserError: one line: the file cannot be read, nothing in the study is pruned by recipes, SparseML is missing,
            or the recipe does not fit the deepest network of the space.
    """
    from autocompress.compression.pruning import check_sparseml
    from autocompress.compression.recipes import read_recipe
    from autocompress.models import build, get_family

    text = _read(Path(source).expanduser())
    if all(axis.pattern != "unstructured" for axis in space.pruning):
        raise UserError(
            f"recipe {source} would never be used: the search space {space.name or 'inline'} has no unstructured "
            "pruning; choose another --space, or leave the recipe out"
        )
    able = {"target": (target.name, target.prune_patterns), "family": (family, get_family(family).prune_patterns)}
    for kind, (name, patterns) in able.items():
        if "unstructured" not in patterns:
            raise UserError(
                f"recipe {source} would never be used: the {kind} {name} cannot use unstructured pruning; "
                f"choose another --{kind}, or leave the recipe out"
            )
    check_sparseml()
    notes = []
    for position, config in enumerate(_by_depth(space, family)):
        model = build(family, config, in_channels=in_channels, num_classes=num_classes)
        try:
            read_recipe(text, (name for name, _ in model.named_parameters()), f"recipe {source}")
        except ConfigError as error:
            if position == 0:
                raise
            notes.append(f"pruned trials with levels {config.levels} will fail: {error}")
    ratio = next(ratio for pattern, ratio in space.prune_points() if pattern == "unstructured")
    notes.insert(0, f"recipe {source} decides on the zeros; unstructured pruning is one point, called {ratio:g}")
    return OwnRecipe(text, tuple(notes))


def one_ratio(space: SearchSpace) -> SearchSpace:
    """The space with the first ratio alone for unstructured pruning: a recipe decides how many zeros there are."""
    pruning = tuple(
        axis.model_copy(update={"ratios": axis.ratios[:1]}) if axis.pattern == "unstructured" else axis
        for axis in space.pruning
    )
    return space.model_copy(update={"pruning": pruning})


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"recipe {path} is larger than {MAX_BYTES / 1e6:g} MB; it must be a SparseML recipe")
        return data.decode()
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror}; give the path of a SparseML recipe") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path} is not text; give the path of a SparseML recipe") from error


def _by_depth(space: SearchSpace, family: str) -> Iterator[CompressionConfig]:
    """A narrow network of each depth that the family can build, the deepest first; names do not depend on widths."""
    from autocompress.models import get_family

    for levels in sorted(space.levels, reverse=True):
        for resolution, grouping in itertools.product(space.resolution, space.grouping):
            config = CompressionConfig(resolution, levels=levels, width=min(space.width), grouping=grouping)
            with contextlib.suppress(ConfigError):
                get_family(family).check(config)
                yield config
                break
