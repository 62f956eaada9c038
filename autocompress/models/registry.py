"""Model families: what one is, and the registry in which they are found by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, get_args

from autocompress.config import CompressionConfig, Grouping, PrunePattern
from autocompress.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.inheritance import InheritanceReport

# Forms of operators in which a network can be exported. A network that offers more than ``plain`` has a method
# ``export_form(form, resolution) -> nn.Module`` that returns the same function for one image in that form.
ExportForm = Literal["plain", "tokens", "channels_first", "half"]
EXPORT_FORMS: tuple[ExportForm, ...] = get_args(ExportForm)

# Modules that register the built-in families when they are imported.
_BUILT_IN = {"dae-former": "autocompress.models.dae_former", "unet": "autocompress.models.monai_unet"}


@dataclass(frozen=True)
class FeatureStage:
    """A module of a network whose output shows what the network looks at, for feature distillation.

    Attributes:
        module: its name, as in ``model.named_modules()``. The same name is the same stage in every network of the
            family; one that lacks the stage has no module of that name.
        channel_axis: axis of its output along which the channels lie: 1 for B x C x H x W, -1 for B x H x W x C.
    """

    module: str
    channel_axis: int


class ModelFamily(ABC):
    """A U-shaped segmentation network that can be built for a compression configuration.

    A family declares what it can honour; `check` refuses the rest with one line before anything is built. A third
    party subclasses this, decorates the class with `register_family`, and has it imported before it is asked for.

    Attributes:
        name: how studies and commands call the family.
        description: one line for tables.
        levels: numbers of levels that it can be built with.
        groupings: values of ``grouping`` that it can be built with.
        prune_patterns: values of ``prune_pattern`` that it can be built with.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    levels: ClassVar[tuple[int, ...]]
    groupings: ClassVar[tuple[Grouping, ...]]
    prune_patterns: ClassVar[tuple[PrunePattern, ...]]

    @abstractmethod
    def stride(self, levels: int) -> int:
        """Total stride in pixels of the network with so many levels; resolutions must be multiples of it."""

    @abstractmethod
    def build(self, config: CompressionConfig, in_channels: int, num_classes: int) -> nn.Module:
        """A freshly initialised network: B x in_channels x R x R to logits B x num_classes x R x R.

        With the prune pattern ``channel`` the smaller network is built; ``unstructured`` zeros come in training.

        Raises:
            ConfigError: the family cannot honour the configuration (see `check`).
        """

    @abstractmethod
    def prunable(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the weights that unstructured pruning may thin out, as in ``model.named_parameters()``."""

    def feature_stages(self, model: nn.Module) -> tuple[FeatureStage, ...]:
        """Stages of the encoder that a student can be compared in with its parent, from fine to coarse.

        A family that names none is taught by its parent's logits alone.
        """
        return ()

    @abstractmethod
    def inherit(
        self, student: nn.Module, student_config: CompressionConfig, parent: nn.Module, parent_config: CompressionConfig
    ) -> InheritanceReport:
        """Start the student, in place, from the parent's weights.

        Both are networks of this family, for the same classes. What has no source in the parent is initialised such
        that the network's function changes least. The same configuration gives the same function.

        Raises:
            ConfigError: the networks differ in their input channels or classes.
        """

    def check(self, config: CompressionConfig) -> None:
        """Refuse what the family cannot honour.

        Raises:
            ConfigError: levels, grouping, prune pattern or resolution are beyond the family.
        """
        allowed: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("levels", config.levels, self.levels),
            ("grouping", config.grouping, self.groupings),
            ("prune_pattern", config.prune_pattern, self.prune_patterns),
        )
        for field, value, values in allowed:
            if value not in values:
                raise ConfigError(f"{self.name} has no {field} {value!r}; it offers {', '.join(map(str, values))}")
        stride = self.stride(config.levels)
        if config.resolution % stride:
            below = config.resolution // stride * stride
            raise ConfigError(
                f"resolution {config.resolution} is no multiple of {stride}, the total stride of {self.name} with "
                f"{config.levels} levels; take {below} or {below + stride}"
            )


_FamilyClass = TypeVar("_FamilyClass", bound=type[ModelFamily])
_registered: dict[str, ModelFamily] = {}


def register_family(family: _FamilyClass) -> _FamilyClass:
    """Class decorator that makes a family known by its ``name``.

    Raises:
        ValueError: another class has the name already.
    """
    known = _registered.get(family.name)
    if known is not None and type(known).__qualname__ != family.__qualname__:
        raise ValueError(f"two model families are called {family.name!r}: {type(known)} and {family}")
    _registered[family.name] = family()
    return family


def list_families() -> tuple[str, ...]:
    """Names of all families, built-in and registered, in alphabetical order; imports none of them."""
    return tuple(sorted({*_BUILT_IN, *_registered}))


def get_family(name: str) -> ModelFamily:
    """The family of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _registered and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    if name not in _registered:
        raise ConfigError(f"unknown model family {name!r}; known are {', '.join(list_families())}")
    return _registered[name]


def build(family: str, config: CompressionConfig, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        family: name of a model family, such as ``dae-former``.
        config: the compression configuration; ``precision`` does not change the network.
        in_channels: channels of the input, at least 1.
        num_classes: classes with the background, at least 1.

    Returns:
        A module from B x in_channels x R x R (float32) to logits B x num_classes x R x R.

    Raises:
        ConfigError: the family is unknown or cannot honour the configuration.
    """
    return get_family(family).build(config, in_channels, num_classes)
