"""A parent network that the user names: a bundle, or what an earlier study trained. Checked before a search begins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.bundles.files import checked_file
from autocompress.bundles.manifest import MANIFEST_FILE, read_manifest
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.paths import read_json
from autocompress.search.parent import PARENT_FILE, WEIGHTS_FILE, Made, make_once

if TYPE_CHECKING:
    from torch import nn

    from autocompress.data.dataset import Dataset

_SHOWN = 200  # characters of a library's message; it may list every weight of the network


@dataclass(frozen=True)
class NamedParent:
    """A trained network that lies somewhere, found fit to be a study's parent.

    Attributes:
        folder: the bundle, or the trained parent.
        config: its configuration.
        digest: SHA-256 of its file of weights, hexadecimal.
    """

    folder: Path
    config: CompressionConfig
    digest: str


@dataclass(frozen=True)
class _Description:
    """What a folder says about its network; None where it does not say."""

    family: str
    config: CompressionConfig
    in_channels: int | None
    num_classes: int | None


def find_parent(source: str, family: str, *, in_channels: int, num_classes: int) -> NamedParent:
    """See that a folder holds a network that a study's trials can inherit from.

    Args:
        source: folder of a bundle, or one that `autocompress.search.parent.train_parent` left.
        family: the study's model family.
        in_channels, num_classes: of the study's data set.

    Raises:
        UserError: one line: nothing is there, it is neither of the two, it is damaged, or it is a network of another
            family or for other data.
    """
    folder = Path(source).expanduser().absolute()
    if not folder.exists():
        raise UserError(f"parent network not found: {folder} does not exist; name a bundle or a trained parent")
    found = _describe(folder)
    if found.family != family:
        raise UserError(
            f"parent network in {folder} is of the family {found.family}, the study's is {family}; "
            f"name another parent, or search with --family {found.family}"
        )
    for what, theirs, ours in (
        ("input channels", found.in_channels, in_channels),
        ("classes", found.num_classes, num_classes),
    ):
        if theirs is not None and theirs != ours:
            raise UserError(
                f"parent network in {folder} has {theirs} {what}, the data set has {ours}; "
                "name a parent that was trained for such data"
            )
    _, digest = read_network(folder, family, found.config, in_channels=in_channels, num_classes=num_classes)
    return NamedParent(folder, found.config, digest)


def read_network(
    folder: Path, family: str, config: CompressionConfig, *, in_channels: int, num_classes: int
) -> tuple[nn.Module, str]:
    """The network in evaluation mode, and the SHA-256 of the bytes that its weights were read from.

    Raises:
        UserError: the weights are missing or damaged, or do not fit the configuration.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from autocompress.models import build

    path = folder / WEIGHTS_FILE
    try:
        data = path.read_bytes()
        model = build(family, config, in_channels=in_channels, num_classes=num_classes)
        model.load_state_dict(load(data))
    except OSError as error:
        raise UserError(f"parent network in {folder}: cannot read {WEIGHTS_FILE} ({error.strerror})") from error
    except SafetensorError as error:
        raise UserError(f"parent network in {folder}: {WEIGHTS_FILE} is damaged ({error}); fetch it again") from error
    except (ConfigError, RuntimeError) as error:
        # PyTorch's first line only says that there are errors.
        reason = " ".join((str(error).strip().splitlines() or ["no message"])[-1].split())[:_SHOWN]
        raise UserError(
            f"parent network in {folder}: {WEIGHTS_FILE} does not fit {family} {config.label} with {in_channels} input "
            f"channels and {num_classes} classes ({reason}); name another parent"
        ) from error
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise UserError(f"parent network in {folder}: {WEIGHTS_FILE} holds weights that are not finite; name another")
    return model.eval(), hashlib.sha256(data).hexdigest()


def adopt_parent(request: Mapping[str, Any]) -> None:
    """Run a named parent over the study's slices (in a worker) and keep it in the cache as if it were trained there.

    Args:
        request: ``folder`` in the cache; ``source``, ``digest`` and ``config`` of the `NamedParent`; ``family``;
            ``data``; ``threads``.

    Raises:
        UserError: the weights are no longer those that were checked.
    """
    make_once(request, _adopt)


def _adopt(request: Mapping[str, Any], dataset: Dataset) -> Made:
    config = CompressionConfig.from_dict(request["config"])
    model, digest = read_network(
        Path(request["source"]),
        request["family"],
        config,
        in_channels=dataset.in_channels,
        num_classes=len(dataset.class_names),
    )
    if digest != request["digest"]:
        raise UserError(f"{request['source']} was changed since the search began; repeat the command")
    return model, config, {"seconds": 0.0, "steps": 0, "source": request["source"], "digest": digest}


def _describe(folder: Path) -> _Description:
    if (folder / MANIFEST_FILE).exists():
        manifest = read_manifest(folder)
        checked_file(folder, manifest, WEIGHTS_FILE)
        # A bundle keeps the float32 weights that its model file was made from.
        config = replace(manifest.config, precision="fp32")
        return _Description(manifest.family, config, manifest.in_channels, len(manifest.classes))
    path = folder / PARENT_FILE
    if not path.exists():
        raise UserError(f"{folder} is neither a bundle ({MANIFEST_FILE}) nor a trained parent ({PARENT_FILE})")
    values = read_json(path)
    if isinstance(values, dict) and "folder" in values:
        raise UserError(f"{folder} is a study; its parent network is kept in {values['folder']}: name that folder")
    try:
        counts = (values.get("in_channels"), values.get("num_classes"))
        return _Description(
            str(values["family"]),
            CompressionConfig.from_dict(values["config"]),
            *(None if count is None else int(count) for count in counts),
        )
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        raise UserError(f"{path} is damaged ({error}); name another parent") from error
