"""Families are found by name, third parties may add theirs, and wrong names are explained."""

import subprocess
import sys

import pytest
from torch import nn

from autocompress.compression.inheritance import InheritanceReport, report
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import ModelFamily, build, get_family, list_families, register_family


def test_built_in_families() -> None:
    assert {"dae-former", "unet"} <= set(list_families())


def test_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown model family 'swin'.*dae-former"):
        get_family("swin")


def test_a_third_party_registers_a_family() -> None:
    @register_family
    class Tiny(ModelFamily):
        name = "tiny-of-a-test"
        description = "one convolution"
        levels = (1,)
        groupings = ("dense",)
        prune_patterns = ("none",)

        def stride(self, levels: int) -> int:
            return levels

        def build(self, config: CompressionConfig, in_channels: int, num_classes: int) -> nn.Module:
            self.check(config)
            return nn.Conv2d(in_channels, num_classes, 1)

        def prunable(self, model: nn.Module) -> tuple[str, ...]:
            return ("weight",)

        def inherit(
            self,
            student: nn.Module,
            student_config: CompressionConfig,
            parent: nn.Module,
            parent_config: CompressionConfig,
        ) -> InheritanceReport:
            return report(student, {})

    assert "tiny-of-a-test" in list_families()
    config = CompressionConfig(32, levels=1, grouping="dense")
    assert isinstance(build("tiny-of-a-test", config, in_channels=1, num_classes=2), nn.Conv2d)
    with pytest.raises(ConfigError, match="grouping 'depthwise'; it offers dense"):
        build("tiny-of-a-test", CompressionConfig(32, levels=1), in_channels=1, num_classes=2)


def test_two_families_cannot_share_a_name() -> None:
    class Impostor(type(get_family("dae-former"))):  # type: ignore[misc]
        pass

    with pytest.raises(ValueError, match="dae-former"):
        register_family(Impostor)


def test_listing_and_dae_former_do_not_import_monai() -> None:
    code = (
        "import sys; from autocompress.models import list_families, get_family; list_families(); "
        "get_family('dae-former'); get_family('unet'); print('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
