"""The front's bundles in an artifact store: a folder, or a bucket that speaks S3.

Optuna's own `upload_artifact` writes into the trial, which a database refuses once a trial is finished; and which
trials are on the front is known only then. So a bundle is linked the way optuna-dashboard links what it shows beside
a finished trial: by an attribute of the study that names the trial.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import optuna

from autocompress.errors import UserError
from autocompress.paths import make_dir

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

SCHEME = "s3"
_LINK = "dashboard:artifacts:{}:"
_MADE = (1980, 1, 1, 0, 0, 0)  # one date for all files, so that the same bundle is the same archive


class Member(Protocol):
    """What is needed of `autocompress.search.outcome.FrontMember`."""

    @property
    def trial(self) -> int:
        """Number of the trial."""
        ...

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        ...


@dataclass(frozen=True)
class Kept:
    """What `keep_front` did.

    Attributes:
        uploaded: bundles that were not there yet.
        removed: archives of earlier fronts that were taken away.
    """

    uploaded: int
    removed: int


def open_artifacts(where: str) -> ArtifactStore:
    """Open an artifact store, and make its folder where it is one.

    Args:
        where: a folder, or ``s3://BUCKET``, with ``?endpoint=URL`` for a service other than Amazon's and
            ``&region=NAME``. Credentials are found where boto3 looks for them: its environment variables and files.

    Raises:
        UserError: no such bucket, no access, boto3 is not installed, or the folder cannot be written to.
    """
    if not where.startswith(f"{SCHEME}:"):
        if "://" in where:
            raise UserError(f"--artifacts {where!r}: give a folder or s3://BUCKET[?endpoint=URL]")
        return optuna.artifacts.FileSystemArtifactStore(make_dir(Path(where).expanduser().absolute()))
    bucket, options = _bucket(where)
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise UserError("artifacts on S3 need boto3: pip install 'autocompress[s3]'") from error
    with artifact_errors(where):
        client = boto3.client(
            "s3",
            endpoint_url=options.get("endpoint"),
            region_name=options.get("region"),
            config=Config(connect_timeout=10, retries={"max_attempts": 4, "mode": "standard"}),
        )
        client.head_bucket(Bucket=bucket)
    return optuna.artifacts.Boto3ArtifactStore(bucket, client=client)


def _bucket(where: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(where)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - {"endpoint", "region"})
    # A password here would be seen in every list of processes.
    if not parts.hostname or "@" in parts.netloc or parts.path.strip("/") or unknown:
        what = f"knows no {unknown[0]!r}" if unknown else "is a bucket and nothing else"
        raise UserError(f"--artifacts s3://BUCKET {what}; write s3://BUCKET[?endpoint=URL][&region=NAME]")
    return parts.netloc, options


@contextmanager
def artifact_errors(where: str) -> Iterator[None]:
    """Turn what a store says into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # botocore's classes exist only where it is installed
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("boto", "s3transfer", "optuna")):
            raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"artifacts in {where.split('?', maxsplit=1)[0]}: {text}") from error


def keep_front(study: optuna.Study, members: Sequence[Member], where: str) -> Kept:
    """Have the front's bundles in the store, each linked with its trial, and nothing of earlier fronts.

    A bundle that is there already is not sent again; what is linked is there in full.

    Args:
        study: the Optuna study.
        members: of the confirmed front.
        where: see `open_artifacts`.

    Raises:
        UserError: the store cannot be used; the bundles in the study's folder are not touched.
    """
    store = open_artifacts(where)
    storage, study_id = study._storage, study._study_id
    linked = _links(study)
    wanted: set[str] = set()
    uploaded = removed = 0
    with artifact_errors(where):
        for member in members:
            content = _archive(member.bundle)
            digest = hashlib.sha256(content).hexdigest()
            artifact = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{study.study_name}/{member.trial}/{digest}"))
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, member.trial)
            key = _LINK.format(trial_id) + artifact
            wanted.add(key)
            if key in linked:
                continue
            store.write(artifact, io.BytesIO(content))
            meta = {
                "artifact_id": artifact,
                "filename": f"{member.bundle.name}.zip",
                "mimetype": "application/zip",
                "encoding": None,
            }
            storage.set_study_system_attr(study_id, key, json.dumps(meta))
            uploaded += 1
        for key in sorted(set(linked) - wanted):
            storage.set_study_system_attr(study_id, key, json.dumps(None))
            store.remove(linked[key])
            removed += 1
    study.set_user_attr("artifacts", where)
    return Kept(uploaded, removed)


def linked_archives(study: optuna.Study) -> dict[int, str]:
    """Identifiers in the store of the archives that are linked with trials, by the trials' numbers."""
    numbers = {trial._trial_id: trial.number for trial in study.get_trials(deepcopy=False)}
    return {numbers[int(key.split(":")[2])]: artifact for key, artifact in _links(study).items()}


def _links(study: optuna.Study) -> dict[str, str]:
    """Identifiers of our archives by the attributes that link them; what others linked is left alone."""
    found = {}
    attributes: Mapping[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    for key, value in attributes.items():
        meta = json.loads(value) if key.startswith(_LINK.split("{", maxsplit=1)[0]) else None
        if meta is not None and uuid.UUID(meta["artifact_id"]).version == 5:
            found[key] = str(meta["artifact_id"])
    return found


def _archive(bundle: Path) -> bytes:
    """A bundle as a ZIP archive; the same files give the same bytes."""
    if not bundle.is_dir():
        raise UserError(f"bundle {bundle} is gone; repeat the search to make it again")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(bundle.rglob("*")):
            if path.is_file() and not path.is_symlink():
                entry = zipfile.ZipInfo(f"{bundle.name}/{path.relative_to(bundle)}", _MADE)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    return stream.getvalue()
