"""What all tests share: nothing of the user's is touched, one thread, and the data that some tests need."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from autocompress.data.dataset import Dataset

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell starts what it puts into the background with SIGINT ignored, and every process below inherits that: tests that
# interrupt a program would wait for it in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read by torch and the engines when they are imported, which is after this file.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches and configuration of the tests, also in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AUTOCOMPRESS_CONFIG", str(tmp_path_factory.mktemp("config")))
        patch.delenv("AUTOCOMPRESS_DEBUG", raising=False)
        yield


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest protocol in place of the default one."""
    from autocompress.hardware import measure as module
    from autocompress.hardware.settings import MeasureSettings

    monkeypatch.setattr(
        module,
        "MeasureSettings",
        lambda: MeasureSettings(
            min_seconds=0.0, max_seconds=0.05, warmup_seconds=0.05, foreign_limit=1e9, agreement=None
        ),
    )


@pytest.fixture(scope="session")
def acdc() -> Path:
    """Folder of the ACDC data in the Synapse layout; set AUTOCOMPRESS_TEST_DATA to the folder that holds ``acdc``."""
    override = os.environ.get("AUTOCOMPRESS_TEST_DATA")
    root = Path(override) if override else REPOSITORY.parent / "shared" / "data"
    if not (root / "acdc" / "train_npz").is_dir():
        pytest.skip(f"no ACDC data in {root / 'acdc'}; set AUTOCOMPRESS_TEST_DATA")
    return root / "acdc"


@pytest.fixture(scope="session")
def tiny_phantoms() -> Dataset:
    """The smallest built-in data set, made once for all tests."""
    from autocompress.data import open_dataset

    return open_dataset("phantoms-tiny", seed=0)
