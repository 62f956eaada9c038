"""Networks that exist only as costs, and a device whose coefficients are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autocompress.hardware.prediction.features import GraphCosts, NodeCost
from autocompress.hardware.prediction.roofline import Roofline

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def network(random: np.random.Generator) -> GraphCosts:
    """Blocks as DAE-Former has them, of random size and precision."""
    precision = str(random.choice(["fp32", "bf16", "int8"]))
    size, dense = BYTES[precision], bool(random.random() < 0.3)
    nodes: list[NodeCost] = []
    weights = peak = 0
    for level in range(int(random.integers(1, 4))):
        tokens = int(random.choice([8, 16, 24, 32, 40, 56])) ** 2 // 4**level + 1
        channels = int(random.choice([16, 32, 80, 128])) * 2**level
        hidden = 4 * channels
        kind, per_value = ("conv_dense", 9 * hidden) if dense else ("conv_depthwise", 9)
        for _ in range(int(random.integers(2, 9))):
            nodes += [
                NodeCost("norm", "fp32", 0, 8 * tokens * channels),
                NodeCost("matmul_weights", precision, tokens * channels * hidden, size * tokens * 5 * channels,
                         size * channels * hidden, 0.0, min(tokens, channels)),
                NodeCost(kind, precision, tokens * hidden * per_value, 2 * size * tokens * hidden,
                         size * hidden * per_value, 0.0, min(tokens, hidden)),
                NodeCost("gelu", "fp32", 0, 8 * tokens * hidden),
                NodeCost("conv_pointwise", precision, tokens * channels * hidden, size * tokens * 5 * channels,
                         size * channels * hidden, 0.0, min(tokens, channels)),
                NodeCost("elementwise", "fp32", 0, 12 * tokens * channels),
                NodeCost("layout", "fp32", 0, 8 * tokens * channels),
                NodeCost("matmul_activations", "fp32", tokens * channels**2, 8 * tokens * channels, 0, 0.0, channels),
                NodeCost("softmax", "fp32", 0, 8 * tokens * channels),
            ]  # fmt: skip
            weights += size * (2 * channels * hidden + hidden * per_value)
        peak = max(peak, 8 * tokens * hidden)
    return GraphCosts(precision, tuple(nodes), weights, peak)


def networks(count: int, seed: int = 0) -> list[GraphCosts]:
    """Some networks, always the same for a seed."""
    random = np.random.default_rng(seed)
    return [network(random) for _ in range(count)]


def device() -> Roofline:
    """Not what `Roofline.from_profile` begins with, in any coefficient that shows."""
    plain = Roofline.from_profile({"fp32": 180.0, "bf16": 400.0, "int8": 500.0}, 20.0, 2.0)
    return replace(
        plain,
        rates={**plain.rates, "conv_depthwise": 9.0, "conv_dense": 70.0},
        streaming={**plain.streaming, "gelu": 0.1, "layout": 0.8},
        half_fill=30.0,
        cache_bytes=4e6,
        base_us=60.0,
        process_bytes=90e6,
        operator_bytes=50e3,
        weight_factor=2.5,
        activation_factor=3.0,
    )
