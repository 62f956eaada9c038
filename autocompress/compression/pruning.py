"""Unstructured pruning (step C): single weights become zero while the network trains, and stay zero.

The work is SparseML's: gradual magnitude pruning by its ``ScheduledModifierManager`` from a recipe that is kept with
the trial. Only weights inside the network are *prunable*: those of convolutions and linear layers, except the first
layer (it sees the image), the last one (it draws the classes) and grouped convolutions (nine weights a channel, which
no engine skips). A prune ratio, and every sparsity that is reported, is about the prunable weights.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compression.recipes import Recipe, read_recipe, write_recipe
from autocompress.errors import ConfigError

INSTALL = "pip install 'autocompress[deepsparse]'"
_STEPS_PER_EPOCH = 100  # SparseML wants a number; it only turns epochs into steps for its logs, which are off


def prunable_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of the prunable weights in the order of the network's modules."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, _LAYERS)]
    return tuple(f"{name}.weight" for name, module in layers[1:-1] if getattr(module, "groups", 1) == 1)


def sparsity_of(model: nn.Module | str | Path) -> float:
    """Share of zeros among the prunable weights, 0 to 1.

    Args:
        model: a network, or the path of an exported ONNX file of any precision: there, the constant operands of
            convolutions and matrix products are counted, the first and the last in the graph's order left out.
    """
    zeros = total = 0
    for tensor in _weights_of(model) if isinstance(model, nn.Module) else _weights_in(Path(model)):
        zeros += tensor[0]
        total += tensor[1]
    return zeros / total if total else 0.0


def check_sparseml() -> None:
    """See that unstructured pruning can be done here.

    Raises:
        ConfigError: SparseML is not installed.
    """
    if importlib.util.find_spec("sparseml") is None:
        raise ConfigError(f"unstructured pruning needs SparseML, which is not installed: {INSTALL}")


class SparseMLPruning:
    """Gradual magnitude pruning while a network trains; an `autocompress.training.trainer.Pruning`.

    Args:
        model: the network that will be trained.
        ratio: share of the prunable weights to remove, above 0 and at most 0.99; ignored where ``recipe`` is given.
        recipe: text of a user's own SparseML recipe.
        source: what to call that recipe in messages, such as its path.

    Attributes:
        recipe: the recipe in use; its ``text`` belongs into the trial's folder and the bundle.

    Raises:
        ConfigError: SparseML is not installed, there is nothing to prune, or the recipe does not fit the network.
    """

    def __init__(
        self, model: nn.Module, ratio: float = 0.0, *, recipe: str | None = None, source: str = "recipe"
    ) -> None:
        check_sparseml()
        if recipe is None:
            self.recipe: Recipe = write_recipe(prunable_weights(model), ratio)
        else:
            self.recipe = read_recipe(recipe, (name for name, _ in model.named_parameters()), source)
        self._manager: Any = None
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._epoch = 0.0
        self._past: list[float] = []

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Attach to the network and the optimiser."""
        self._model, self._optimizer, self._epoch, self._past = model, optimizer, 0.0, []
        self._manager = _manager(self.recipe)
        self._manager.initialize(model, epoch=0.0, loggers=_silent_loggers())

    def before_step(self, fraction: float) -> None:
        """Choose the zeros that are due at this share of the budget."""
        self._epoch = min(fraction, 1.0) * self.recipe.epochs
        self._past.append(self._epoch)
        self._manager.update(self._model, self._optimizer, self._epoch, _STEPS_PER_EPOCH, log_updates=False)
        self._manager.optimizer_pre_step(self._model, self._optimizer, self._epoch, _STEPS_PER_EPOCH)

    def after_step(self) -> None:
        """Undo what the optimiser's momentum did to zeros."""
        self._manager.optimizer_post_step(self._model, self._optimizer, self._epoch, _STEPS_PER_EPOCH)

    def state(self) -> dict[str, torch.Tensor]:
        """The masks, and the epochs of the steps so far, for a training that pauses."""
        masks = _masks_of(self._manager)
        return {"epochs": torch.tensor(self._past, dtype=torch.float64), **{f"mask/{k}": v for k, v in masks.items()}}

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, torch.Tensor]) -> None:
        """Attach to the network and the optimiser of a training that goes on after a pause.

        SparseML keeps when it last chose zeros to itself, so the steps are played again on a copy's weights: what is
        chosen on the way is replaced by the masks that were kept.
        """
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.start(model, optimizer)
        for epoch in state["epochs"].tolist():
            self._manager.update(model, optimizer, epoch, _STEPS_PER_EPOCH, log_updates=False)
        self._past = state["epochs"].tolist()
        self._epoch = self._past[-1] if self._past else 0.0
        model.load_state_dict(weights)
        found = {key.removeprefix("mask/"): value for key, value in state.items() if key.startswith("mask/")}
        for modifier in self._manager.iter_modifiers():
            names = modifier.state_dict().keys()
            if names:
                modifier.load_state_dict({name: found[f"{modifier.identifier()}/{name}"] for name in names})

    def finish(self) -> None:
        """Reach the final ratio, also where the training ended early, and let go of the network."""
        if self._manager is None:
            return
        if self._epoch < self.recipe.epochs:
            self._manager.update(self._model, self._optimizer, self.recipe.epochs, _STEPS_PER_EPOCH, log_updates=False)
        self._manager.finalize(self._model)
        self._manager = self._model = self._optimizer = None


def with_zeros_of(recipe: str, model: nn.Module) -> nn.Module:
    """A copy of a network with the zeros that a recipe ends with, without any training.

    Args:
        recipe: text of a SparseML recipe.
        model: the network; it stays as it is.

    Raises:
        ConfigError: SparseML is not installed, or the recipe does not fit the network.
    """
    pruned = copy.deepcopy(model)
    pruning = SparseMLPruning(pruned, recipe=recipe)
    # SparseML wants an optimiser to attach to; this one never takes a step.
    pruning.start(pruned, torch.optim.SGD(pruned.parameters(), lr=0.0))
    pruning.finish()
    return pruned


class KeepZeros:
    """Later training of a pruned network: what is zero stays zero. Needs no SparseML.

    Args:
        model: the pruned network; the zeros of its prunable weights are taken down now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._masks = {name: weight.detach() != 0 for name, weight in _named(model, prunable_weights(model))}
        self._pairs: list[tuple[nn.Parameter, torch.Tensor]] = []

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Attach to the network, which may have moved to another device."""
        self._pairs = [
            (weight, self._masks[name].to(weight.device, weight.dtype)) for name, weight in _named(model, self._masks)
        ]

    def before_step(self, fraction: float) -> None:
        """Nothing changes with the budget."""

    def after_step(self) -> None:
        """Put the zeros back."""
        with torch.no_grad():
            for weight, mask in self._pairs:
                weight.mul_(mask)

    def finish(self) -> None:
        """Put the zeros back for good."""
        self.after_step()
        self._pairs = []


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _named(model: nn.Module, names: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for name in names:
        yield name, model.get_parameter(name)


def _manager(recipe: Recipe) -> Any:
    """SparseML's manager for a recipe; its usage reports to the vendor stay off."""
    os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pkg_resources, at every import
            from sparseml.pytorch.optim import ScheduledModifierManager
    except ImportError as error:
        raise ConfigError(f"SparseML cannot be imported ({error}); mend it with: {INSTALL}") from error
    try:
        return ScheduledModifierManager.from_yaml(recipe.text)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"SparseML refuses the recipe: {' '.join(str(error).split())}") from error


def _masks_of(manager: Any) -> dict[str, torch.Tensor]:
    """All masks by ``MODIFIER/WEIGHT``."""
    return {
        f"{modifier.identifier()}/{name}": mask
        for modifier in manager.iter_modifiers()
        for name, mask in modifier.state_dict().items()
    }


def _silent_loggers() -> Any:
    """Loggers that log nowhere: SparseML's own would write a ``sparse_logs`` folder into the working directory."""
    from sparseml.pytorch.utils import LambdaLogger, LoggerManager

    # An empty manager counts as false and would be replaced by the default one.
    quiet = LambdaLogger(lambda *_args, **_kwargs: True, enabled=False)
    return LoggerManager([quiet], log_frequency=None, log_python=False)


def _weights_of(model: nn.Module) -> Iterator[tuple[int, int]]:
    for _, weight in _named(model, prunable_weights(model)):
        yield int((weight == 0).sum()), weight.numel()


def _weights_in(path: Path) -> Iterator[tuple[int, int]]:
    """(zeros, size) of the prunable weights of an ONNX file."""
    from autocompress.compression.onnx_graph import constant_weights

    weights = constant_weights(path)
    for weight in weights[1:-1]:
        if weight.groups == 1:
            yield int((weight.values == weight.zero).sum()), weight.values.size
