"""Where a bundle comes from: package versions and the machine, gathered once when it is written."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

from autocompress.bundles.manifest import Provenance

# The packages that shape a model or its figures; those that are not installed are left out.
PACKAGES = (
    "autocompress",
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "sparseml",
    "deepsparse",
    "optuna",
    "ray",
    "monai",
    "scipy",
)


def collect_provenance(
    *,
    dataset: str,
    dataset_fingerprint: str,
    study: str | None = None,
    trial: int | None = None,
    seed: int | None = None,
) -> Provenance:
    """Provenance of a model made now, on this machine, with the packages that are installed."""
    return Provenance(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        study=study,
        trial=trial,
        seed=seed,
        dataset=dataset,
        dataset_fingerprint=dataset_fingerprint,
        packages=package_versions(),
        machine={
            "cpu": cpu_model(),
            "cores": os.cpu_count() or 1,
            "architecture": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
    )


def package_versions() -> dict[str, str]:
    """Versions of the installed packages among `PACKAGES`."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """Name of the CPU, as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
