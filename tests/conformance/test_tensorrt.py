"""The exam of `test_engines` for TensorRT: with the stand-in for trtexec, and on an NVIDIA GPU with the real thing."""

from __future__ import annotations

from typing import ClassVar

import pytest

from autocompress.hardware.targets import Target, inspect_target
from autocompress.specs.schemas import HardwareProfile
from tests.conformance.test_engines import EngineExam
from tests.standins.launching import install, target_of


class _StandInExam(EngineExam):
    """What the agent does around trtexec; what TensorRT itself would do is not examined here."""

    engine = "tensorrt"
    device = "tensorrt-gpu"
    version: ClassVar[str]

    @pytest.fixture(scope="class")
    def target(self, tmp_path_factory: pytest.TempPathFactory) -> Target:
        """The stand-in as the only engine."""
        target = target_of(install(tmp_path_factory.mktemp("standin"), version=self.version))
        assert target.usable, target.unusable[0].line
        assert target.engines[0].version == self.version
        return target


class TestStandInForTrtexec82(_StandInExam):
    """With the formats of JetPack 4.6, as on a Jetson Nano."""

    version = "8.2.1"


class TestStandInForTrtexec103(_StandInExam):
    """With the formats of JetPack 6, as on a Jetson Orin Nano."""

    version = "10.3.0"


class _RealExam(EngineExam):
    """TensorRT on this machine's GPU."""

    engine = "tensorrt"
    device = "tensorrt-gpu"
    api: ClassVar[str]

    @pytest.fixture(scope="class")
    def target(self, tmp_path_factory: pytest.TempPathFactory) -> Target:
        """TensorRT as the only engine, with a cache of its own."""
        options = {"api": self.api, "cache": str(tmp_path_factory.mktemp("engines"))}
        target = inspect_target(
            HardwareProfile.from_dict(
                {
                    "name": "exam",
                    "device": self.device,
                    "engines": [{"name": "tensorrt", "threads": 1, "options": options}],
                }
            )
        )
        if not target.usable:
            pytest.skip(target.unusable[0].line)
        return target


@pytest.mark.gpu
class TestTrtexec(_RealExam):
    """By its program."""

    api = "trtexec"


@pytest.mark.gpu
class TestPythonPackage(_RealExam):
    """By its Python package."""

    api = "python"
