"""What a user gets who installs the package: a working command, the built-in YAML, quick imports, pins that fit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import autocompress

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("search_spaces", "objectives", "hw_profiles", "studies")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(REPOSITORY),
    ]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds what the wheel holds, as an installation would have it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(installed: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "autocompress", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_yaml_file_unchanged(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.endswith((".yaml", ".yml"))}
    expected = {
        f"autocompress/library/{folder}/{path.name}": path.read_bytes()
        for folder in FOLDERS
        for path in (REPOSITORY / folder).glob("*.yaml")
    }
    assert len(expected) > 10
    assert packed == expected


def test_the_wheel_holds_what_else_is_promised(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "autocompress = autocompress.cli:main" in entry_points
    assert "autocompress/py.typed" in names
    assert "autocompress/hardware/agent/main.py" in names
    assert f"\nVersion: {autocompress.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    for extra in ("deepsparse", "openvino", "postgres", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


@pytest.mark.parametrize(("kind", "folder"), [("targets", "hw_profiles"), ("studies", "studies")])
def test_an_installed_package_finds_its_yaml_from_any_folder(
    kind: str, folder: str, installed: Path, tmp_path: Path
) -> None:
    rows = json.loads(run_installed(installed, tmp_path, "list", kind, "--json"))
    assert {row["name"] for row in rows} == {path.stem for path in (REPOSITORY / folder).glob("*.yaml")}
    for row in rows:
        assert row["origin"] == "built-in"
        assert row["problem"] == ""
        assert Path(row["path"]).is_relative_to(installed)


def test_an_installed_package_tells_its_version(installed: Path, tmp_path: Path) -> None:
    assert run_installed(installed, tmp_path, "--version") == f"autocompress {autocompress.__version__}\n"


def test_the_package_is_imported_without_torch() -> None:
    code = (
        "import sys, autocompress; "
        "from autocompress import CompressionConfig, UserError; CompressionConfig(64); "
        "assert not {'torch', 'ray', 'optuna', 'numpy', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=REPOSITORY)


@pytest.mark.parametrize("first", ["", "import autocompress.search.records; "])
def test_the_promised_names_can_be_called_in_any_order(first: str) -> None:
    # A subpackage is called search as well: whoever imports it first must not take the function's place.
    code = f"{first}from autocompress import build, load, search; assert all(map(callable, (build, load, search)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=REPOSITORY)


def test_the_package_lists_what_it_exports() -> None:
    assert {"CompressionConfig", "UserError", "build", "load", "search"} <= set(dir(autocompress))
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = autocompress.biuld


def test_the_pins_satisfy_every_requirement() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    pins = dict(re.split("==", line) for line in lines if line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} does not satisfy {text}"


def test_the_pins_name_no_place() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    assert not re.search(r"://|@|\+|--", text.replace("`-c constraints.txt`", ""))


def test_make_tells_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    targets = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")}
    assert targets == {"help", "setup", "search", "test", "test-slow", "lint", "bench", "report", "clean"}


def test_the_studies_of_the_make_targets_can_be_searched() -> None:
    from autocompress.specs import load_study

    used = re.findall(r"--study (\S+)", (REPOSITORY / "Makefile").read_text())
    assert used == ["phantoms"]
    study = load_study(used[0])
    assert study.data == "phantoms"
    # `make search` must end within ten minutes.
    assert study.budget.seconds is not None
    assert study.budget.seconds <= 480


def test_continuous_integration_can_be_run() -> None:
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
