"""The physical estimate, against times that are computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autocompress.errors import UserError
from autocompress.hardware.prediction.features import ARITHMETIC_KINDS, MOVING_KINDS, GraphCosts, NodeCost
from autocompress.hardware.prediction.roofline import REDUCED, Roofline

# 1 GMac/s, 1 GB/s, so that 10^6 of either take a millisecond; nothing else costs any time.
PLAIN = Roofline(
    rates=dict.fromkeys(ARITHMETIC_KINDS, 1.0),
    speedups={"fp16": 2.0, "bf16": 4.0, "int8": 8.0},
    carrying=dict.fromkeys(REDUCED, 1.0),
    streaming=dict.fromkeys(MOVING_KINDS, 1.0),
    bandwidth_gbs=1.0,
    launch_us=1e-9,
    launch_moving_us=1e-9,
    base_us=1e-9,
    cache_gain=1.0,
    half_fill=1e-9,
)


def one(kind: str, macs: int, moved: int, arithmetic: str = "fp32", **more: float) -> GraphCosts:
    """A network of one operator."""
    values = {"weight_bytes": 0, "zeros": 0.0, "narrowest": 64, **more}
    return GraphCosts("fp32", (NodeCost(kind, arithmetic, macs, moved, **values),), 0, 0)  # type: ignore[arg-type]


def test_the_longer_of_arithmetic_and_traffic_counts() -> None:
    assert PLAIN.latency_ms(one("conv_dense", 5_000_000, 3_000_000)) == pytest.approx(5.0)
    assert PLAIN.latency_ms(one("conv_dense", 2_000_000, 3_000_000)) == pytest.approx(3.0)
    assert PLAIN.latency_ms(one("conv_dense", 2_000_000, 2_000_000, weight_bytes=4_000_000)) == pytest.approx(6.0)


def test_precision_speeds_up_arithmetic_and_can_slow_down_moving() -> None:
    assert PLAIN.latency_ms(one("matmul_weights", 8_000_000, 100, "bf16")) == pytest.approx(2.0)
    assert PLAIN.latency_ms(one("matmul_weights", 8_000_000, 100, "int8")) == pytest.approx(1.0)
    slow = replace(PLAIN, carrying={"fp16": 0.5, "bf16": 1.0, "int8": 1.0})
    assert slow.latency_ms(one("norm", 0, 1_000_000, "fp16")) == pytest.approx(2.0)
    assert slow.latency_ms(one("norm", 0, 1_000_000, "fp32")) == pytest.approx(1.0)
    assert slow.latency_ms(one("conv_dense", 100, 1_000_000, "fp16")) == pytest.approx(1.0)


def test_launches_and_the_inference_itself_have_a_fixed_time() -> None:
    product, moving = NodeCost("conv_dense", "fp32", 0, 0), NodeCost("layout", "fp32", 0, 0)
    network = GraphCosts("fp32", (product, moving, moving, moving), 0, 0)
    device = replace(PLAIN, launch_us=10.0, launch_moving_us=2.0, base_us=100.0)
    assert device.latency_ms(network) == pytest.approx((10 + 3 * 2 + 100) / 1000)


def test_narrow_products_reach_half_of_the_rate_at_half_fill() -> None:
    device = replace(PLAIN, half_fill=16.0)
    assert device.latency_ms(one("conv_dense", 1_000_000, 0, narrowest=16)) == pytest.approx(2.0)
    assert device.latency_ms(one("conv_dense", 1_000_000, 0, narrowest=48)) == pytest.approx(64 / 48)


def test_small_operators_are_served_by_the_cache() -> None:
    device = replace(PLAIN, cache_bytes=1e6, cache_gain=5.0)
    assert device.latency_ms(one("layout", 0, 1000)) == pytest.approx(1e-3 / 5, rel=1e-4)
    assert device.latency_ms(one("layout", 0, 1_000_000)) == pytest.approx(1 / 3)  # half of the gain
    assert device.latency_ms(one("layout", 0, 100_000_000)) == pytest.approx(100, rel=1e-3)


def test_zeros_save_time_only_where_the_engine_skips_them() -> None:
    pruned = one("conv_pointwise", 1_000_000, 0, zeros=0.8)
    assert PLAIN.latency_ms(pruned) == pytest.approx(1.0)
    assert replace(PLAIN, zero_skip=0.5).latency_ms(pruned) == pytest.approx(0.6)


def test_memory() -> None:
    network = GraphCosts("fp32", (NodeCost("layout", "fp32", 0, 0),) * 3, 1000, 500)
    device = replace(PLAIN, process_bytes=1e6, operator_bytes=10.0, weight_factor=2.0, activation_factor=4.0)
    assert device.memory_bytes(network) == 1_000_000 + 30 + 2000 + 2000


def test_from_a_profile() -> None:
    # Two operations are one multiply-accumulate, and no library reaches the peak.
    nano = Roofline.from_profile({"fp32": 236.0, "fp16": 472.0}, 25.6, 50.0)
    assert max(nano.rates.values()) <= 118
    assert nano.speedups["fp16"] == 2.0
    assert (nano.bandwidth_gbs, nano.launch_us) == (25.6, 50.0)
    faster = Roofline.from_profile({"fp32": 472.0}, 51.2, 25.0)
    costs = one("conv_dense", 10**8, 10**6)
    assert faster.latency_ms(costs) < nano.latency_ms(costs)
    assert Roofline.from_profile().latency_ms(costs) > 0  # a profile may have no figures at all


def test_a_slower_device_takes_longer_everywhere() -> None:
    device = replace(PLAIN, launch_us=10.0, base_us=100.0, half_fill=8.0)
    for costs in (one("conv_dense", 10**6, 10), one("layout", 0, 10**6)):
        assert device.slower(3.0).latency_ms(costs) == pytest.approx(3 * device.latency_ms(costs))


def test_round_trip_and_damage() -> None:
    assert Roofline.from_dict(PLAIN.to_dict()) == PLAIN
    for change in ({"bandwidth_gbs": 0}, {"rates": {}}, {"cache_gain": 0.5}, {"more": 1}, {"launch_us": "x"}):
        with pytest.raises(UserError, match="damaged roofline"):
            Roofline.from_dict({**PLAIN.to_dict(), **change})
