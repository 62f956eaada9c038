"""The compression configuration: what it refuses, and that its identifier depends on the values alone."""

import json
import subprocess
import sys

import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError


def test_equal_values_are_one_configuration() -> None:
    whole, decimal = CompressionConfig(64, width=1, prune_ratio=0), CompressionConfig(64, width=1.0, prune_ratio=0.0)
    assert whole == decimal
    assert len({whole, decimal}) == 1
    assert whole.identifier == decimal.identifier


def test_identifier_differs_for_each_field() -> None:
    configs = [
        CompressionConfig(64),
        CompressionConfig(96),
        CompressionConfig(64, levels=3),
        CompressionConfig(64, width=0.5),
        CompressionConfig(64, grouping="dense"),
        CompressionConfig(64, prune_ratio=0.5, prune_pattern="channel"),
        CompressionConfig(64, prune_ratio=0.5, prune_pattern="unstructured"),
        CompressionConfig(64, precision="int8"),
    ]
    assert len({config.identifier for config in configs}) == len(configs)


def test_identifier_is_the_same_in_another_process() -> None:
    code = (
        "from autocompress.config import CompressionConfig as C; print(C(64, width=0.25, precision='fp16').identifier)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == CompressionConfig(64, width=0.25, precision="fp16").identifier


def test_json_both_ways() -> None:
    config = CompressionConfig(128, 3, 0.5, "dense", 0.8, "unstructured", "bf16")
    assert CompressionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        CompressionConfig(64).resolution = 128  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"resolution": 16}, "resolution 16"),
        ({"resolution": 1024}, "resolution 1024"),
        ({"resolution": 64.0}, "whole number"),
        ({"resolution": True}, "whole number"),
        ({"resolution": 64, "levels": 0}, "levels 0"),
        ({"resolution": 64, "width": 0}, "width 0"),
        ({"resolution": 64, "width": float("nan")}, "finite"),
        ({"resolution": 64, "width": "1"}, "finite"),
        ({"resolution": 64, "grouping": "grouped"}, "depthwise, dense"),
        ({"resolution": 64, "precision": "int4"}, "fp32, fp16, bf16, int8"),
        ({"resolution": 64, "prune_ratio": 1.0, "prune_pattern": "channel"}, "nothing would be left"),
        ({"resolution": 64, "prune_ratio": 0.5}, "contradicts"),
        ({"resolution": 64, "prune_pattern": "channel"}, "contradicts"),
        ({"resolution": 64, "depth": 2}, "unknown configuration field 'depth'"),
        ({}, "lacks its resolution"),
    ],
)
def test_refuses_in_one_line(values: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        CompressionConfig.from_dict(values)
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
