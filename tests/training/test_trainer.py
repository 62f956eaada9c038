"""What a caller relies on: it learns, repeats by seed, stops when told, and never passes off a broken network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.data.dataset import SliceSet
from autocompress.errors import ConfigError, DataError
from autocompress.training.settings import TrainSettings
from autocompress.training.trainer import make_optimizer, schedule, start_from_prior, train

Build = Callable[[], nn.Module]


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _dice(model: nn.Module, slices: SliceSet) -> float:
    with torch.no_grad():
        found = model(torch.from_numpy(slices.images)).argmax(1).numpy() == 1
    own = slices.labels == 1
    return float(2 * (found & own).sum() / (found.sum() + own.sum()))


def test_learns_the_task(network: Build, squares: SliceSet) -> None:
    model = network()
    outcome = train(model, squares, TrainSettings(steps=120, learning_rate=0.01))
    assert (outcome.status, outcome.steps, outcome.device) == ("done", 120, "cpu")
    assert not model.training
    assert _dice(model, squares) > 0.8


@pytest.mark.parametrize("bf16", ["off", "on"])
def test_a_seed_repeats_and_another_differs(network: Build, squares: SliceSet, bf16: str) -> None:
    results = []
    for seed in (1, 1, 2):
        model = network()
        torch.manual_seed(seed * 17)  # the caller's own random state must not matter
        train(model, squares, TrainSettings.from_dict({"steps": 4, "seed": seed, "bf16": bf16}))
        results.append(_weights(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_waiting_does_not_use_up_the_budget(network: Build, squares: SliceSet) -> None:
    class SlowDoor:
        @contextlib.contextmanager
        def step(self) -> Iterator[None]:
            time.sleep(0.05)
            yield

    outcome = train(network(), squares, TrainSettings(seconds=0.1), room=SlowDoor())
    assert outcome.status == "done"
    assert outcome.seconds >= 0.1
    # One more for the look at the classes before the first step.
    assert outcome.waited >= 0.05 * (outcome.steps + 1)


def test_a_loss_that_is_not_finite_ends_the_training(network: Build, squares: SliceSet) -> None:
    images = squares.images.copy()
    images[:, :, 0, 0] = np.nan
    outcome = train(network(), SliceSet(images, squares.labels), TrainSettings(steps=5, augment=False))
    assert outcome.status == "diverged"
    assert "loss became nan at step 1" in outcome.reason
    assert outcome.steps == 0


def test_stops_when_told(network: Build, squares: SliceSet) -> None:
    seen: list[tuple[int, float]] = []
    outcome = train(
        network(),
        squares,
        TrainSettings(steps=10),
        on_progress=lambda step, fraction, loss, seconds: seen.append((step, fraction)),
        stop=lambda: "enough" if len(seen) == 3 else None,
    )
    assert (outcome.status, outcome.reason, outcome.steps) == ("stopped", "enough", 3)
    assert seen == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_an_interrupt_passes_and_leaves_threads_and_modes_in_order(network: Build, squares: SliceSet) -> None:
    def interrupt(step: int, fraction: float, loss: float, seconds: float) -> None:
        raise KeyboardInterrupt

    model, threads = network(), torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        train(model, squares, TrainSettings(steps=10, threads=threads + 1), on_progress=interrupt)
    assert torch.get_num_threads() == threads
    assert not model.training


def test_labels_may_be_finer_than_the_images(network: Build, squares: SliceSet) -> None:
    fine = SliceSet(squares.images, squares.labels.repeat(2, 1).repeat(2, 2))
    assert train(network(), fine, TrainSettings(steps=2)).status == "done"


def test_bad_input_is_named(network: Build, squares: SliceSet) -> None:
    with pytest.raises(DataError, match="no slices"):
        train(network(), SliceSet(squares.images[:0], squares.labels[:0]), TrainSettings(steps=1))
    with pytest.raises(DataError, match="label is 7 but the network has 2 classes"):
        train(network(), SliceSet(squares.images, squares.labels * 7), TrainSettings(steps=1))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            train(network(), squares, TrainSettings(steps=1, device="cuda"))


def test_fewer_slices_than_a_batch(network: Build, squares: SliceSet) -> None:
    few = SliceSet(squares.images[:3], squares.labels[:3])
    assert train(network(), few, TrainSettings(steps=2)).steps == 2


def test_schedule() -> None:
    late = 1000
    assert schedule(0.0, 0.1, late) == pytest.approx(0.02)
    assert schedule(0.05, 0.1, late) == pytest.approx(0.5)
    assert schedule(0.1, 0.1, late) == pytest.approx(1.0)
    assert schedule(0.55, 0.1, late) == pytest.approx(0.5)
    assert schedule(1.0, 0.1, late) == pytest.approx(0.0)


def test_the_first_steps_are_slow_however_short_the_training() -> None:
    # 41 steps in all: the warm-up of 5 % would be over after two.
    rates = [schedule(step / 41, 0.05, step) for step in range(41)]
    assert rates[2] == pytest.approx(3 / 30, rel=0.1)
    assert max(rates) < 0.6
    assert rates.index(max(rates)) > 10


def test_only_matrices_decay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.temperature = nn.Parameter(torch.ones(8, 1, 1))

    decayed, kept = make_optimizer(Net(), TrainSettings(steps=1)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 4)]
    assert decayed["weight_decay"] > 0
    assert sorted(tuple(p.shape) for p in kept["params"]) == [(4,), (4,), (4,), (8, 1, 1)]
    assert kept["weight_decay"] == 0


def test_a_fresh_network_starts_from_the_class_frequencies() -> None:
    labels = np.zeros((1, 10, 10), np.uint8)
    labels[0, 0] = 1  # a tenth
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1))
    assert not start_from_prior(model, labels)  # PyTorch's own start is not zero: perhaps somebody's weights
    nn.init.zeros_(model[1].bias)
    nn.init.zeros_(model[1].weight)
    assert start_from_prior(model, labels)
    share = model(torch.zeros(1, 1, 2, 2)).softmax(1)[0, 1, 0, 0].item()
    assert share == pytest.approx(11 / 102)
    assert not start_from_prior(model, labels)
