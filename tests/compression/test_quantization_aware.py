"""Training that sees the rounding of INT8: it rounds as the file does, teaches, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compression.precision import convert
from autocompress.compression.quantization_aware import quantization_aware, round_activation, round_weight
from autocompress.data.dataset import FloatArray

Run = Callable[[Path, FloatArray], FloatArray]
Build = Callable[..., nn.Module]
Export = Callable[..., Path]


def test_weights_keep_127_steps_to_their_largest_in_each_channel() -> None:
    weight = torch.tensor([[1.27, 0.004, -0.016], [0.0, 0.0, 0.0]])
    # The step of the first row is 0.01: 0.004 rounds to nothing and 0.016 to two steps.
    assert torch.allclose(round_weight(weight), torch.tensor([[1.27, 0.0, -0.02], [0.0, 0.0, 0.0]]))


def test_activations_keep_255_steps_and_an_exact_zero() -> None:
    limits = torch.tensor([-0.55, 2.0])  # a step is 0.01
    x = torch.tensor([0.0, 0.013, -5.0, 5.0])
    assert torch.allclose(round_activation(x, limits), torch.tensor([0.0, 0.01, -0.55, 2.0]), atol=1e-6)


def test_gradients_pass_as_if_nothing_were_rounded_inside_the_range() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    round_weight(weight).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.ones(4, 3))
    x = torch.tensor([0.5, 9.0], requires_grad=True)
    round_activation(x, torch.tensor([0.0, 1.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0]


def test_it_computes_what_the_exported_int8_file_computes(
    export: Export, samples: FloatArray, run: Run, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    # One layer between the first and the last: rounding twice would make the errors of the two a matter of chance.
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 3, 1)).eval()
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export(model, source, 17)
    convert(source, target, "int8", calibration=samples)
    exact, rounded = run(source, samples), run(target, samples)
    with torch.no_grad(), quantization_aware(model):
        outputs = model(torch.from_numpy(samples)).numpy()
    assert np.abs(outputs - rounded).mean() < 0.1 * np.abs(exact - rounded).mean()


def test_nothing_is_left_afterwards_even_if_the_training_breaks(delicate: Build, samples: FloatArray) -> None:
    model = delicate(channels=16).eval()
    image = torch.from_numpy(samples)
    with torch.no_grad():
        before = model(image)
        with quantization_aware(model):
            assert not torch.equal(model(image), before)
        assert torch.equal(model(image), before)
        with pytest.raises(KeyboardInterrupt), quantization_aware(model):
            raise KeyboardInterrupt
        assert torch.equal(model(image), before)


def test_training_with_it_makes_a_network_that_rounding_hurts_less() -> None:
    torch.manual_seed(0)
    # One channel is a thousand times larger than the others, so one scale for the tensor rounds the rest away.
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[0] *= 1000
        model[0].bias.zero_()
    x = torch.randn(256, 8)
    truth = model(x).detach()

    def loss() -> torch.Tensor:
        return (model(x) - truth)[:, 1].square().mean()

    with quantization_aware(model):
        model.train()
        before = float(loss())
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
        assert float(loss()) < 0.5 * before
