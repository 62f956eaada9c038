"""The front's bundles in a folder and in a bucket, as optuna-dashboard offers them."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from autocompress.errors import UserError
from autocompress.search.artifacts import Kept, keep_front, linked_archives, open_artifacts
from autocompress.search.storage import default_url, open_storage


@dataclass(frozen=True)
class Front:
    trial: int
    bundle: Path


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(
        storage=open_storage(default_url(tmp_path)), study_name="heart", directions=["maximize", "minimize"]
    )
    for number in range(3):
        study.tell(study.ask(), [70.0 + number, 5.0 + number])
    return study


def front(tmp_path: Path, *numbers: int, weights: bytes = b"weights") -> list[Front]:
    members = [Front(number, tmp_path / "bundles" / f"model-{number}") for number in numbers]
    for member in members:
        (member.bundle / "inputs").mkdir(parents=True, exist_ok=True)
        (member.bundle / "model.onnx").write_bytes(weights + str(member.trial).encode())
        (member.bundle / "inputs" / "sample.npy").write_bytes(b"sample")
    return members


def dashboard(study: optuna.Study, where: str, path: str) -> bytes:
    """What optuna-dashboard answers to a browser."""
    from optuna_dashboard import wsgi

    app = wsgi(study._storage, artifact_store=open_artifacts(where))
    answers: list[str] = []
    environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()}
    environment |= {"SERVER_NAME": "here", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}

    def start(status: str, _headers: list[Any], *_: Any) -> None:
        answers.append(status)

    body = b"".join(app(environment, start))
    assert answers == ["200 OK"]
    return body


def check_the_dashboard_offers_them(study: optuna.Study, where: str, members: list[Front]) -> None:
    assert sorted(linked_archives(study)) == [member.trial for member in members]
    shown = json.loads(dashboard(study, where, f"/api/studies/{study._study_id}"))["trials"]
    for member in members:
        (meta,) = shown[member.trial]["artifacts"]
        assert meta["filename"] == f"{member.bundle.name}.zip"
        trial_id = study.trials[member.trial]._trial_id
        content = dashboard(study, where, f"/artifacts/{study._study_id}/{trial_id}/{meta['artifact_id']}")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == {
                f"{member.bundle.name}/model.onnx": (member.bundle / "model.onnx").read_bytes(),
                f"{member.bundle.name}/inputs/sample.npy": b"sample",
            }


def test_bundles_in_a_folder_follow_the_front(study: optuna.Study, tmp_path: Path) -> None:
    where = str(tmp_path / "artifacts")
    members = front(tmp_path, 0, 2)
    assert keep_front(study, members, where) == Kept(uploaded=2, removed=0)
    check_the_dashboard_offers_them(study, where, members)
    assert keep_front(study, members, where) == Kept(uploaded=0, removed=0)

    # The search went on: trial 0 left the front, trial 1 came, and the bundle of trial 2 was made anew.
    members = front(tmp_path, 1, 2, weights=b"better")
    assert keep_front(study, members, where) == Kept(uploaded=2, removed=2)
    check_the_dashboard_offers_them(study, where, members)
    assert len(list((tmp_path / "artifacts").iterdir())) == 2


def test_what_others_uploaded_is_left_alone(study: optuna.Study, tmp_path: Path) -> None:
    where = str(tmp_path / "artifacts")
    note = tmp_path / "note.txt"
    note.write_text("mine")
    own = optuna.artifacts.upload_artifact(
        artifact_store=open_artifacts(where), file_path=str(note), study_or_trial=study
    )
    keep_front(study, front(tmp_path, 0), where)
    keep_front(study, [], where)
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [own]


def test_an_upload_that_fails_leaves_no_link(study: optuna.Study, tmp_path: Path) -> None:
    members = front(tmp_path, 0)
    where = str(tmp_path / "artifacts")
    open_artifacts(where)
    (tmp_path / "artifacts").rmdir()
    (tmp_path / "artifacts").write_text("a file")
    with pytest.raises(UserError):
        keep_front(study, members, where)
    assert linked_archives(study) == {}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An HTTP server that speaks S3."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.usefixtures("credentials")
def test_bundles_in_a_bucket(study: optuna.Study, tmp_path: Path, endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="studies")
    where = f"s3://studies?endpoint={endpoint}"
    members = front(tmp_path, 0, 2)
    assert keep_front(study, members, where) == Kept(uploaded=2, removed=0)
    check_the_dashboard_offers_them(study, where, members)
    assert keep_front(study, members[:1], where) == Kept(uploaded=0, removed=1)
    assert client.list_objects_v2(Bucket="studies")["KeyCount"] == 1


@pytest.mark.usefixtures("credentials")
def test_a_bucket_that_is_not_there_is_one_line(endpoint: str) -> None:
    with pytest.raises(UserError, match=r"artifacts in s3://nowhere: .*404") as caught:
        open_artifacts(f"s3://nowhere?endpoint={endpoint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where", ["s3://", "s3://bucket/folder", "s3://me:secret@bucket", "s3://bucket?key=secret", "gs://bucket"]
)
def test_wrong_places_are_one_line(where: str) -> None:
    with pytest.raises(UserError, match=r"s3://BUCKET") as caught:
        open_artifacts(where)
    assert "secret" not in str(caught.value)
