"""Ray for real: workers and nodes that die, files that travel, machines that are left alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from autocompress.errors import UserError
from autocompress.paths import read_json
from autocompress.search import executor as executor_module
from autocompress.search import session
from autocompress.search.executor import Ended, RayExecutor
from autocompress.search.node_files import Errand, entries_of, errand_of, pack, run_with_files, unpack
from autocompress.search.nodes import Placing
from autocompress.search.parent import train_parent
from autocompress.search.resolve import overrides_of, resolve
from autocompress.search.stages import STAGE_FILES
from autocompress.search.storage import default_url
from autocompress.search.trial import run_trial
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
    """Leave word of the share, and of the GPU, that the task was given; end when it may."""
    import ray

    folder = Path(values["folder"])
    share = ray.get_runtime_context().get_assigned_resources().get("GPU")
    (folder / "gpu.txt").write_text(f"{share} of GPU {os.environ['CUDA_VISIBLE_DEVICES']}")
    wait_for(lambda: "go" not in values or Path(values["go"]).exists(), "never told to end")


def traced(values: Mapping[str, Any]) -> None:
    """A trial, or the training of a parent, that leaves word of where each part of it ran."""
    import ray

    with (Path(values["folder"]) / "where.txt").open("a") as log:
        log.write(f"{values['part']} {ray.get_runtime_context().get_node_id()}\n")
    (run_trial if "number" in values else train_parent)(values)


def wait_for(happened: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 90
    while not happened():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


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
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            assert not (folder / "old.txt").exists() and not list(folder.glob(".autocompress*"))
        # A bundle is whole or not there: one of a task that failed does not take the place of anything.
        bundles = [folder / "bundles" / "model" / "model.onnx" for folder in folders]
        assert [path.exists() and path.stat().st_size for path in bundles] == [4000, 4000, False]
        kept = list((cluster.folder / "node-cache" / "node-files").glob("[!.]*[!k]"))
        assert len([path for path in kept if path.is_dir()]) == 1, "the data came more than once"

        # Now a study on this node and another one; the first dies with its trials.
        last = cluster.start("--num-cpus=2", "--num-gpus=1")
        plan = faulty_search.plan_of(tmp_path / "study", 8, default_url(tmp_path / "study"))
        begun = cluster.folder / "node-cache" / "node-work"

        def kill() -> None:
            wait_for(lambda: any(begun.iterdir()), "the node had no trial")
            cluster.kill(far)

        killer = threading.Thread(target=kill)
        killer.start()
        executor.slots = 4
        driver = faulty_search.search(plan, executor, seconds=1.0)
        killer.join()

        # No node is left: that is waited for, but not for ever.
        monkeypatch.setattr(executor_module, "_ROOM_SECONDS", 2.0)
        monkeypatch.setattr(executor_module, "_LOOK_SECONDS", 0.5)
        cluster.kill(last)
        executor.submit("none", write_place, {**values, "folder": str(folders[0])})
        with pytest.raises(UserError, match=r"no node has 1 CPU and 0.5 GPU .* repeat the command: nothing is lost"):
            work(executor)
    asked = optuna.load_study(study_name=plan.name, storage=plan.storage).get_trials()
    assert any("lost" in trial.user_attrs for trial in asked), "no trial was lost with the node"
    assert Counter(result.state for result in driver.results) == {"complete": 8}
    names = [read_json(path)["number"] for path in (tmp_path / "study" / "trials").glob("*/result.json")]
    assert len(names) == 8
    assert far.returncode is not None


@pytest.mark.slow
def test_a_machine_that_is_measured_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    cluster.start("--num-cpus=2", head=True)
    time.sleep(3)
    bench = cluster.start("--num-cpus=2", "--node-name=bench")

    def submit(executor: RayExecutor, case: str, **values: Any) -> list[Path]:
        folders = [tmp_path / case / str(number) for number in range(4)]
        for folder in folders:
            executor.submit(f"{case} {folder.name}", write_node, {**values, "folder": str(folder)})
        return folders

    def ran(folders: list[Path]) -> set[str]:
        return {(folder / "node.txt").read_text() for folder in folders}

    with connect(cluster, 2, 4, spare=["bench"]) as executor:
        here = ray.get_runtime_context().get_node_id()
        folders = submit(executor, "spare")
        assert [each.error for each in work(executor)] == [None] * 4 and ran(folders) == {here}
    with connect(cluster, 2, 8, only_here=True) as executor:
        here = ray.get_runtime_context().get_node_id()
        folders = submit(executor, "here")
        others = submit(executor, "there", part="training")
        assert [each.error for each in work(executor)] == [None] * 8
        assert ran(folders) == {here} and len(ran(others) - {here}) == 1 and here not in ran(others)

        # The other node dies with two of four: those that had not begun are trained here.
        go = tmp_path / "go"
        folders = submit(executor, "dies", part="training", go=str(go))
        wait_for(lambda: len(list((tmp_path / "dies").glob("*/node.txt"))) == 2, "two tasks did not begin")
        cluster.kill(bench)
        go.touch()
        ended = Counter(each.error for each in work(executor))
        assert ended[None] == 2 and len(ended) == 2, ended
        assert sum((folder / "node.txt").read_text() == here for folder in folders) == 2


@pytest.mark.slow
def test_a_machine_that_is_measured_measures_and_other_nodes_train(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    if not can_hide():
        pytest.skip("needs the right to mount, to give a node another disk")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    for name in ("run_trial", "train_parent"):
        monkeypatch.setattr(session, name, traced)
    (tmp_path / "space.yaml").write_text("resolution: [32, 64]\nlevels: [1]\nwidth: [0.125]\nprecision: [fp32]\n")
    cluster.start("--num-cpus=2", head=True)
    time.sleep(3)
    cluster.start("--num-cpus=2", hide=tmp_path)
    with connect(cluster, 2, 1):
        here = ray.get_runtime_context().get_node_id()
    wishes = {
        "target": "cpu-onnxruntime",
        "data": "phantoms-tiny",
        "space": str(tmp_path / "space.yaml"),
        "workers": 2,
        "trials": 2,
        "trial_seconds": 6,
    }
    plan = resolve("split", overrides=overrides_of(wishes), out=tmp_path / "runs", ray_address=cluster.address)
    outcome = session.run_search(plan, lambda _: None)
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 0} and outcome.front
    (parent,) = (tmp_path / "cache" / "parents").glob("*/parent.json")
    trials = sorted((plan.folder / "trials").iterdir())
    for folder, expected in (
        *((trial, {"gate", "training", "judgement"}) for trial in trials),
        (parent.parent, {"training"}),
    ):
        where = [line.split() for line in (folder / "where.txt").read_text().splitlines()]
        assert {part for part, _ in where} == expected
        assert all((node == here) == (part != "training") for part, node in where), where
    assert len(trials) == 2 and not any((trial / name).exists() for trial in trials for name in STAGE_FILES)


def write_node(values: Mapping[str, Any]) -> None:
    import ray

    (Path(values["folder"]) / "node.txt").write_text(ray.get_runtime_context().get_node_id())
    wait_for(lambda: "go" not in values or Path(values["go"]).exists(), "never told to end")


def test_more_gpu_than_there_is_is_one_line_whatever_cluster_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as on the nodes of a cluster
    with pytest.raises(UserError, match="64 GPU for each trial: Ray finds none that large on this machine"):
        RayExecutor(1, gpus=64)


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    left = tmp_path / "ray" / "ray_current_cluster"  # what ``ray start`` leaves when its processes are killed
    left.parent.mkdir()
    left.write_text("127.0.0.1:2\n")
    for address, said in (("127.0.0.1:1", "127.0.0.1:1: "), ("auto", "127.0.0.1:2: "), ("ray://h:1", "Ray Client")):
        with pytest.raises(UserError, match=said) as caught:
            RayExecutor(1, address)
        assert "\n" not in str(caught.value)


NODES = [
    {
        "NodeID": name,
        "Alive": name != "dead",
        "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus},
        "NodeManagerAddress": f"10.0.0.{number}",
        "NodeManagerHostname": name,
        "NodeName": f"10.0.0.{number}",
    }
    for number, (name, cpus, gpus) in enumerate([("me", 2.0, 0.0), ("board", 8.0, 1.0), ("dead", 8.0, 1.0)])
]
BIG = {**NODES[1], "NodeID": "big", "NodeManagerAddress": "10.0.0.9", "NodeManagerHostname": "big", "NodeName": "x"}
TRAINING = {"part": "training"}


def test_trials_run_on_nodes_that_are_large_enough_and_not_measured() -> None:
    whole = Placing("me", cpus=2, gpus=0, spare=("10.0.0.1",))
    assert whole.choose({}, NODES) == "anywhere" and whole.able({}, "anywhere", NODES)
    assert whole.selector("anywhere", NODES) == "!in(board)"
    assert Placing("me", cpus=2, gpus=0).selector("anywhere", NODES) == ""
    greedy = Placing("me", cpus=2, gpus=0.5, spare=("board",))
    assert not greedy.able({}, "anywhere", NODES), "the node with a GPU is a board, or dead"
    assert greedy.able({}, "anywhere", [*NODES, BIG])
    assert (
        greedy.lacking({}) == "no node has 2 CPU and 0.5 GPU for a trial; start one that has, or lower --gpus-per-trial"
    )


def test_where_this_machine_is_measured_other_nodes_train() -> None:
    placing = Placing("me", cpus=2, gpus=0.5, only_here=True, spare=("board",))
    for part in ("gate", "judgement", None):
        values = {"part": part}
        assert placing.choose(values, [*NODES, BIG]) == "here" and placing.able(values, "here", NODES)
        assert placing.gpus_of(values) == 0, "it is not training that needs one"
    assert placing.selector("here", NODES) == "me"
    assert placing.choose(TRAINING, [*NODES, BIG]) == "elsewhere"
    assert placing.selector("elsewhere", [*NODES, BIG]) == "!in(me,board)"
    # Without another node, training is for this machine too, if it has what that takes.
    assert placing.choose(TRAINING, NODES) == "here" and not placing.able(TRAINING, "here", NODES)
    assert Placing("me", cpus=2, gpus=0, only_here=True).able(TRAINING, "here", NODES[:1])
    small = Placing("me", cpus=4, gpus=0, only_here=True)
    assert not small.able({}, "here", NODES) and "start it with 'ray start --num-cpus=N'" in small.lacking({})


def test_trials_share_the_processors_of_the_cluster() -> None:
    everywhere = Placing("me", cpus=1, gpus=0)
    # The nodes have 2 and 8: two with 4 each fit on the large one, four with 2 each and one more on the small one.
    assert [everywhere.share(count, NODES) for count in (1, 2, 3, 5, 6, 10, 11, 99)] == [8, 4, 2, 2, 1, 1, 1, 1]
    assert Placing("me", cpus=1, gpus=0, spare=("board",)).share(1, NODES) == 2
    measured = Placing("me", cpus=1, gpus=0, only_here=True)
    assert measured.share(1, NODES) == 2, "this machine has no more for the parts that need it"
    assert measured.share(8, NODES) == 1 and measured.share(1, NODES[:1]) == 2 and measured.share(1, []) == 1


@pytest.mark.slow
def test_shares_of_a_gpu_and_room_that_no_node_has(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start("--num-cpus=4", "--num-gpus=1", head=True)
    with connect(cluster, 1, 3, gpus=0.5) as executor:
        for name in "abc":
            executor.submit(name, gpu_share, {"folder": str(tmp_path / name), "go": str(tmp_path / "go")})
        wait_for(lambda: len(list(tmp_path.glob("*/gpu.txt"))) == 2, "two halves did not run at once")
        assert executor.wait(1.0) == [] and len(list(tmp_path.glob("*/gpu.txt"))) == 2
        (tmp_path / "go").touch()
        assert {each.error for each in work(executor)} == {None}
    assert [path.read_text() for path in tmp_path.glob("*/gpu.txt")] == ["0.5 of GPU 0"] * 3
    refused: list[tuple[dict[str, Any], str]] = [
        ({"gpus": 2}, "no node has 1 CPU and 2 GPU for a trial; start one that has, or lower --gpus-per-trial"),
        ({"cpus": 8}, "no node has 8 CPU for a trial; start one that has"),
        ({"cpus": 8, "only_here": True}, "its node has not 8 CPU for a trial; start it with 'ray start --num-cpus=N'"),
    ]
    for options, message in refused:
        with pytest.raises(UserError, match=message) as caught:
            RayExecutor(3, cluster.address, **options)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(f"Ray at {cluster.address}: ")


@pytest.mark.slow
def test_rays_dashboard_answers_with_the_token_that_the_user_is_told() -> None:
    with RayExecutor(1, dashboard=True) as executor:
        assert executor.dashboard_url is not None and executor.dashboard_token is not None
        with urllib.request.urlopen(executor.dashboard_url, timeout=20) as page:
            assert page.status == 200 and b"<title>Ray Dashboard</title>" in page.read()
        assert executor.dashboard_token.stat().st_mode & 0o077 == 0
        token = executor.dashboard_token.read_text()
        nodes = urllib.request.Request(f"{executor.dashboard_url}/nodes?view=summary")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(nodes, timeout=20)
        nodes.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(nodes, timeout=20) as answer:
            assert len(json.load(answer)["data"]["summary"]) == 1
    assert not executor.dashboard_token.exists()
