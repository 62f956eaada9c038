"""Ray for real: workers and nodes that die, files that travel, machines that are left alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from autocompress.errors import UserError
from autocompress.paths import read_json
from autocompress.search.executor import Ended, RayExecutor
from autocompress.search.node_files import Errand, entries_of, errand_of, pack, run_with_files, unpack
from autocompress.search.storage import default_url
from tests.search import faulty_search

# -- tasks ------------------------------------------------------------------------------------------------------------


def write_place(values: Mapping[str, Any]) -> None:
    """Leave word of where the task ran and of what it read."""
    import ray

    folder = Path(values["folder"])
    (folder / "node.txt").write_text(ray.get_runtime_context().get_node_id())
    read = {path.name: path.read_text() for path in sorted(Path(values["data"]["name_or_path"]).iterdir())}
    (folder / "read.txt").write_text(repr(read) + repr(sorted(path.name for path in folder.iterdir())))
    (folder / "old.txt").unlink(missing_ok=True)
    bundle = Path(values["bundles"]) / "model"
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(b"onnx" * 1000)
    (folder / "result.json").write_text("{}")
    if values.get("fails"):
        raise ValueError("as asked")


def gpu_share(values: Mapping[str, Any]) -> None:
    import ray

    folder = Path(values["folder"])
    (folder / "gpu.txt").write_text(str(ray.get_runtime_context().get_assigned_resources().get("GPU")))


def work(executor: RayExecutor) -> list[Ended]:
    ended: list[Ended] = []
    deadline = time.monotonic() + 120
    while executor.running:
        assert time.monotonic() < deadline, f"still running: {executor.running}"
        ended += executor.wait(0.5)
    return ended


# -- files, without Ray ------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Values of a task with folders on the driver's machine, and another cache for the node."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "node"))
    for name, content in (("data", "slices"), ("trial", "before")):
        (tmp_path / "driver" / name / "sub").mkdir(parents=True)
        (tmp_path / "driver" / name / "sub" / "a.txt").write_text(content)
        (tmp_path / "driver" / name / "b.txt").write_text(f"{content} too")
    driver = tmp_path / "driver"
    return {
        "folder": str(driver / "trial"),
        "data": {"name_or_path": str(driver / "data"), "seed": 1},
        "bundles": str(driver / "bundles"),
        "parent": None,
    }


def go_elsewhere(errand: Errand, values: Mapping[str, Any], tmp_path: Path, function: Any) -> Any:
    """Run a task as a node would that does not see the driver's disk."""
    store: dict[int, bytes] = {}

    def put(content: bytes) -> int:
        store[len(store)] = content
        return len(store) - 1

    parcels = {each.path: pack(each, put) for each in (*errand.inputs, *errand.workplaces)}
    (tmp_path / "driver").rename(tmp_path / "away")
    try:
        assert run_with_files(function, values, errand, None, store.__getitem__).missing
        return run_with_files(function, values, errand, parcels, store.__getitem__)
    finally:
        assert not (tmp_path / "driver").exists(), "the task wrote where the driver's folders would be"
        (tmp_path / "away").rename(tmp_path / "driver")


def test_where_the_disk_is_shared_the_task_works_in_the_drivers_own_folders(places: dict[str, Any]) -> None:
    seen: list[Mapping[str, Any]] = []
    back = run_with_files(seen.append, places, errand_of(places, ".mark"), None, lambda _: b"")
    assert seen == [places] and not back.files and not back.missing and back.error is None


def test_files_go_to_a_node_and_what_it_changed_comes_back(places: dict[str, Any], tmp_path: Path) -> None:
    def task(values: Mapping[str, Any]) -> None:
        data, trial = Path(values["data"]["name_or_path"]), Path(values["folder"])
        assert (data / "sub" / "a.txt").read_text() == "slices" and values["data"]["seed"] == 1
        assert trial.name == "trial" and (trial / "b.txt").read_text() == "before too"
        (trial / "b.txt").unlink()
        (trial / "sub" / "a.txt").write_text("BEFORE")  # as long as before
        (trial / "result.json").write_text("{}")
        (Path(values["bundles"]) / "one").mkdir()
        (Path(values["bundles"]) / "one" / "m").write_text("new")

    errand = errand_of(places, ".mark")
    (tmp_path / "driver" / "bundles" / "one").mkdir(parents=True)
    (tmp_path / "driver" / "bundles" / "one" / "stale").touch()
    (tmp_path / "driver" / "bundles" / "two").mkdir()
    back = go_elsewhere(errand, places, tmp_path, task)
    assert back.error is None
    unpack(errand, back)
    trial = Path(places["folder"])
    assert (trial / "sub" / "a.txt").read_text() == "BEFORE" and not (trial / "b.txt").exists()
    assert [name for name, *_ in entries_of(trial)] == ["result.json", "sub/a.txt"]
    assert sorted(path.name for path in Path(places["bundles"]).glob("[a-z]*")) == ["one", "two"]
    assert [path.name for path in Path(places["bundles"], "one").iterdir()] == ["m"]
    assert not list((tmp_path / "node" / "node-work").iterdir())


def test_a_task_that_fails_on_a_node_sends_what_it_left(places: dict[str, Any], tmp_path: Path) -> None:
    def task(values: Mapping[str, Any]) -> None:
        (Path(values["folder"]) / "error.txt").write_text("why")
        raise ValueError("no good\nsecond line")

    errand = errand_of(places, ".mark")
    back = go_elsewhere(errand, places, tmp_path, task)
    unpack(errand, back)
    assert back.error == "ValueError: no good" and Path(places["folder"], "error.txt").read_text() == "why"


def test_a_node_cannot_write_beside_the_drivers_folders(places: dict[str, Any], tmp_path: Path) -> None:
    errand = errand_of(places, ".mark")
    back = go_elsewhere(errand, places, tmp_path, lambda _: None)
    for path in (places["folder"], places["bundles"]):
        bad = type(back)(files={path: {"../../escaped": b"x"}})
        with pytest.raises(UserError, match="leaves its folder"):
            unpack(errand, bad)
    assert not list(tmp_path.glob("**/escaped"))


# -- a cluster ---------------------------------------------------------------------------------------------------------


class Cluster:
    """A Ray cluster of real nodes on this machine, of which some see another disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, head: bool = False, hide: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a node, to which the folder ``hide`` is empty."""
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *arguments]
        if head:
            ray += ["--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false"]
            ray += ["--temp-dir", str(self.folder)]
        else:
            ray += [f"--address={self.address}"]
        ray += ["--object-store-memory=100000000"]
        environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        if hide is not None:
            ray = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{hide}" && exec "$@"', "sh", *ray]
            environment["AUTOCOMPRESS_CACHE"] = str(self.folder / "node-cache")
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(ray, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.nodes.append(node)
        return node

    @staticmethod
    def kill(node: subprocess.Popen[bytes]) -> None:
        """``kill -9`` of a node with all of its processes."""
        processes: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(node.pid)
            processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        node.wait(timeout=10)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    import tempfile

    # Ray reads its token once in a process, so that all tests have the one that the first of them chose.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty_search.__file__).parents[2]))
    folder = Path(tempfile.mkdtemp(prefix="autocompress-cluster-"))
    running = Cluster(folder)
    try:
        yield running
    finally:
        for node in reversed(running.nodes):
            running.kill(node)
        shutil.rmtree(folder, ignore_errors=True)


def can_hide() -> bool:
    return (
        subprocess.run(
            ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
        ).returncode
        == 0
    )


def connect(cluster: Cluster, nodes: int, slots: int, **options: Any) -> RayExecutor:
    """An executor once so many nodes are there."""
    import ray

    deadline = time.monotonic() + 90
    while True:
        try:
            executor = RayExecutor(slots, cluster.address, **options)
            break
        except UserError:
            assert time.monotonic() < deadline, (cluster.folder / "node-0.log").read_text()
            time.sleep(0.5)
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        assert time.monotonic() < deadline, "a node did not come"
        time.sleep(0.2)
    return executor


@pytest.mark.slow
def test_a_node_without_the_drivers_disk_gets_files_once_and_a_node_that_dies_loses_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    import ray

    if not can_hide():
        pytest.skip("needs the right to mount, to give a node another disk")
    cluster.start("--num-cpus=0", head=True)
    time.sleep(3)
    far = cluster.start("--num-cpus=2", "--num-gpus=1", hide=tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "slices.txt").write_text("slices")
    folders = [tmp_path / f"trial-{number}" for number in range(3)]
    with connect(cluster, 2, 2, gpus=0.5) as executor:
        here = ray.get_runtime_context().get_node_id()
        for number, folder in enumerate(folders):
            folder.mkdir()
            (folder / "old.txt").write_text("old")
            values = {"folder": str(folder), "data": {"name_or_path": str(data)}, "bundles": str(folder / "bundles")}
            executor.submit(str(number), write_place, {**values, "fails": number == 2})
        ended = {each.key: each.error for each in work(executor)}
        assert ended == {"0": None, "1": None, "2": "ValueError: as asked"}
        for folder in folders:
            assert (folder / "node.txt").read_text() != here
            assert (folder / "read.txt").read_text() == "{'slices.txt': 'slices'}['node.txt', 'old.txt']"
            assert (folder / "bundles" / "model" / "model.onnx").stat().st_size == 4000
            assert not (folder / "old.txt").exists() and not list(folder.glob(".autocompress*"))
        kept = list((cluster.folder / "node-cache" / "node-files").glob("[!.]*[!k]"))
        assert len([path for path in kept if path.is_dir()]) == 1, "the data came more than once"
        executor.submit("share", gpu_share, {"folder": str(folders[0])})
        assert work(executor) == [Ended("share", None)]
        assert (folders[0] / "gpu.txt").read_text() == "0.5"

        # Now a study on this node and another one; the first dies with its trials.
        cluster.start("--num-cpus=2", "--num-gpus=1")
        plan = faulty_search.plan_of(tmp_path / "study", 8, default_url(tmp_path / "study"))
        killer = threading.Timer(4.0, cluster.kill, [far])
        killer.start()
        executor.slots = 4
        driver = faulty_search.search(plan, executor, seconds=1.0)
        killer.join()
    assert Counter(result.state for result in driver.results) == {"complete": 8}
    names = [read_json(path)["number"] for path in (tmp_path / "study" / "trials").glob("*/result.json")]
    assert len(names) == 8
    assert far.returncode is not None


@pytest.mark.slow
def test_a_machine_that_is_measured_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    cluster.start("--num-cpus=2", head=True)
    time.sleep(3)
    cluster.start("--num-cpus=2", "--node-name=bench")
    values = {"data": {"name_or_path": str(tmp_path)}}
    ran: dict[str, set[str]] = {}
    for case, options in (("spare", {"spare": ["bench"]}), ("here", {"only_here": True})):
        with connect(cluster, 2, 4, **options) as executor:
            here = ray.get_runtime_context().get_node_id()
            folders = [tmp_path / case / str(number) for number in range(4)]
            for folder in folders:
                executor.submit(folder.name, write_node, {**values, "folder": str(folder)})
            assert [each.error for each in work(executor)] == [None] * 4
            ran[case] = {(folder / "node.txt").read_text() for folder in folders}
            assert ran[case] == {here}


def write_node(values: Mapping[str, Any]) -> None:
    import ray

    time.sleep(0.2)
    (Path(values["folder"]) / "node.txt").write_text(ray.get_runtime_context().get_node_id())


def test_more_gpu_than_there_is_and_a_cluster_that_is_not_there_are_one_line() -> None:
    with pytest.raises(UserError, match="64 GPU for each trial"):
        RayExecutor(1, gpus=64)
    with pytest.raises(UserError, match=r"cannot start Ray at 127.0.0.1:1") as caught:
        RayExecutor(1, "127.0.0.1:1")
    assert "\n" not in str(caught.value)
