"""Search for compressed segmentation transformers that run well on the device you have.

>>> from autocompress import CompressionConfig, build, search, load
>>> network = build("dae-former", CompressionConfig(resolution=224, levels=2), in_channels=1, num_classes=9)
>>> front = search(target="cpu", data="phantoms", min_dice=75, budget="15m")
>>> labels = load(front[0].bundle).predict(array)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress import search as search
    from autocompress.bundles import load as load
    from autocompress.config import CompressionConfig as CompressionConfig
    from autocompress.errors import UserError as UserError
    from autocompress.models import build as build

__version__ = "0.1.0"

# Loaded at first use: `import autocompress` must not wait for torch (and `autocompress --help` never needs it).
_EXPORTS = {
    "CompressionConfig": "autocompress.config",
    "UserError": "autocompress.errors",
    "build": "autocompress.models",
    "load": "autocompress.bundles",
}

# `search` is the subpackage itself, which can be called (see there): a function of that name would be hidden by
# the subpackage as soon as anything imports it.
__all__ = ["CompressionConfig", "UserError", "__version__", "build", "load", "search"]


def __getattr__(name: str) -> Any:
    if name == "search":
        return importlib.import_module("autocompress.search")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
