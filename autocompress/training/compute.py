"""Where and in which number format a training computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from autocompress.errors import ConfigError
from autocompress.training.settings import Bf16, Device


def pick_device(device: Device) -> torch.device:
    """The device that a setting stands for.

    Raises:
        ConfigError: ``cuda`` was asked for and there is no usable GPU.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("training device 'cuda' was asked for but PyTorch sees no GPU; use 'auto' or 'cpu'")
    return torch.device("cuda" if device != "cpu" and available else "cpu")


def use_bf16(setting: Bf16, device: torch.device) -> bool:
    """Whether a training runs in bfloat16.

    ``auto`` goes by what the processor has and not by a stopwatch, so that a seed repeats. With AVX-512 BF16 even the
    smallest two-level DAE-Former (a quarter of the width, 64x64) takes its steps 1.2 times as fast, wider ones and
    higher resolutions 1.8 times; without such instructions bfloat16 is emulated and slower.
    """
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Private names: where a later PyTorch lacks them, float32 is the slower and safe answer.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """bfloat16 matrix products and convolutions; the networks keep their norms and softmaxes in float32 themselves."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with ``count`` CPU threads and restore the number afterwards; None changes nothing."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
