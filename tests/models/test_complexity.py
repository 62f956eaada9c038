"""Counting by ptflops, against arithmetic by hand."""

import pytest
import torch
from torch import nn

from autocompress.models.complexity import complexity


def test_counts_a_convolution(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    model.train()
    counted = complexity(model, 3, 32)
    assert counted.parameters == 3 * 8 * 9
    assert counted.gmacs == pytest.approx(3 * 8 * 9 * 32 * 32 / 1e9)
    assert model.training
    assert capsys.readouterr() == ("", "")


def test_counts_trainable_parameters_only() -> None:
    model = nn.Conv2d(1, 1, 1)
    model.bias.requires_grad_(False)
    assert complexity(model, 1, 8).parameters == 1


def test_a_network_that_cannot_run_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="could not count"):
        complexity(nn.Conv2d(2, 1, 1), 1, 8)


def test_functions_of_torch_are_restored() -> None:
    before = torch.matmul
    complexity(nn.Conv2d(1, 1, 1), 1, 8)
    assert torch.matmul is before
