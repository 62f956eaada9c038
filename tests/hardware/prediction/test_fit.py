"""What a fit makes of measurements whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autocompress.hardware.prediction.features import GraphCosts
from autocompress.hardware.prediction.fit import Sample, fit, fit_roofline
from autocompress.hardware.prediction.predictor import Predictor
from autocompress.hardware.prediction.roofline import Roofline
from tests.hardware.prediction.synthetic import device, networks

START = Roofline.from_profile()
TRUE = device()


def strange(costs: GraphCosts, random: np.random.Generator) -> float:
    """Milliseconds on a device that no roofline describes: a wave by size, slow int8 at small sizes, 2 % of noise."""
    size = math.log(costs.macs)
    factor = 0.08 * math.sin(size) + (0.15 if costs.precision == "int8" and size < 18 else 0.0)
    return TRUE.latency_ms(costs) * math.exp(factor + random.normal(0, 0.02))


@pytest.fixture(scope="module")
def fitted() -> Predictor:
    """From 50 measurements of the strange device."""
    random = np.random.default_rng(7)
    return fit([Sample(c, strange(c, random), TRUE.memory_bytes(c)) for c in networks(50)], START, where="a device")


def test_predictions_of_other_networks_after_fifty_measurements(fitted: Predictor) -> None:
    random = np.random.default_rng(8)
    errors, inside = [], []
    for costs in networks(200, seed=1):
        prediction, truth = fitted.predict(costs), strange(costs, random)
        errors.append(abs(prediction.latency_ms / truth - 1))
        inside.append(prediction.low_ms <= truth <= prediction.high_ms)
    assert np.mean(np.array(errors) < 0.1) >= 0.9
    assert 0.82 <= np.mean(inside) <= 0.99  # meant for 90 %; neither too narrow nor for show


def test_the_interval_is_of_use(fitted: Predictor) -> None:
    widths = [p.high_ms / p.low_ms for p in map(fitted.predict, networks(50, seed=2))]
    assert np.median(widths) < 1.3
    assert fitted.predict(networks(1)[0]).basis == "50 measurements on a device"


def test_far_from_all_measurements_the_interval_is_wider(fitted: Predictor) -> None:
    near = fitted.predict(networks(1)[0])
    node = networks(1)[0].nodes[1]
    odd = fitted.predict(GraphCosts("fp16", (node,) * 3000, 10, 10))
    assert math.log(odd.high_ms / odd.low_ms) > 1.5 * math.log(near.high_ms / near.low_ms)


def test_memory_is_recovered(fitted: Predictor) -> None:
    for costs in networks(20, seed=3):
        prediction = fitted.predict(costs)
        assert prediction.memory_bytes == pytest.approx(TRUE.memory_bytes(costs), rel=0.03)
        assert prediction.memory_low <= TRUE.memory_bytes(costs) <= prediction.memory_high


def test_known_coefficients_are_recovered() -> None:
    costs = networks(60)
    found = fit_roofline(costs, np.log([TRUE.latency_ms(each) for each in costs]), START)
    assert found.rates["conv_dense"] == pytest.approx(TRUE.rates["conv_dense"], rel=0.1)
    for each in networks(30, seed=4):
        assert found.latency_ms(each) == pytest.approx(TRUE.latency_ms(each), rel=0.05)


def test_an_outlier_does_not_move_the_others() -> None:
    costs = networks(40)
    measured = np.log([TRUE.latency_ms(each) for each in costs])
    measured[3] += math.log(5.0)  # somebody else used the machine
    found = fit_roofline(costs, measured, START)
    errors = [abs(found.latency_ms(each) / TRUE.latency_ms(each) - 1) for each in networks(30, seed=5)]
    assert np.quantile(errors, 0.9) < 0.1


def test_zeros_are_learned_from_pruned_networks() -> None:
    from dataclasses import replace

    sparse = replace(TRUE, zero_skip=0.6)
    random = np.random.default_rng(0)
    costs = []
    for each in networks(40):
        zeros = float(random.choice([0.0, 0.5, 0.9]))
        nodes = tuple(replace(node, zeros=zeros if node.macs else 0.0) for node in each.nodes)
        costs.append(replace(each, nodes=nodes))
    found = fit_roofline(costs, np.log([sparse.latency_ms(each) for each in costs]), START)
    assert found.zero_skip == pytest.approx(0.6, abs=0.1)


def test_nothing_measured() -> None:
    prediction = fit((), START, where="laptop").predict(networks(1)[0])
    assert prediction.latency_ms == pytest.approx(START.latency_ms(networks(1)[0]))
    assert prediction.high_ms / prediction.latency_ms == pytest.approx(4)
    assert prediction.basis == "figures of the hardware profile on laptop, nothing measured"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_measurements_scale_the_estimate(count: int) -> None:
    costs = networks(count)
    predictor = fit([Sample(each, 3 * START.latency_ms(each)) for each in costs], START)
    other = networks(1, seed=9)[0]
    prediction = predictor.predict(other)
    assert predictor.correction is None
    assert prediction.latency_ms == pytest.approx(3 * START.latency_ms(other))
    assert prediction.low_ms < prediction.latency_ms < prediction.high_ms
    assert prediction.basis == ("1 measurement" if count == 1 else f"{count} measurements")


def test_more_agreement_narrows_the_interval() -> None:
    def width(count: int) -> float:
        predictor = fit([Sample(each, START.latency_ms(each)) for each in networks(count)], START)
        return predictor.above

    assert fit((), START).above > width(1) > width(3) > width(7) > 0.05


def test_twelve_measurements_are_enough_for_a_correction() -> None:
    random = np.random.default_rng(3)
    predictor = fit([Sample(each, strange(each, random)) for each in networks(12)], START)
    assert predictor.correction is not None
    assert math.isfinite(predictor.predict(networks(1, seed=6)[0]).high_ms)


def test_a_fit_can_be_repeated() -> None:
    samples = [Sample(each, TRUE.latency_ms(each)) for each in networks(9)]
    assert fit(samples, START) == fit(samples, START)


@pytest.mark.parametrize("latency", [0.0, -1.0, math.nan, math.inf])
def test_impossible_samples_are_refused(latency: float) -> None:
    with pytest.raises(ValueError, match="latency of x must be above 0"):
        Sample(networks(1)[0], latency, label="x")
