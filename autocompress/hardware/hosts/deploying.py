"""Putting a folder of files on a host, to stay."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from autocompress.errors import TargetError
from autocompress.hardware.hosts.link import Link, LinkError, open_link
from autocompress.hardware.hosts.ssh import SshHost, file_digest

DEPLOYED = "autocompress"
"""Folder below the home folder there."""


def deploy_files(host: SshHost, name: str, files: Mapping[str, Path]) -> str:
    """Put files into ``~/autocompress/NAME`` on a host, in one step; what was there before is replaced.

    Args:
        host: where.
        name: of the folder, a plain file name.
        files: by their plain names there.

    Returns:
        The absolute path of the folder there.

    Raises:
        TargetError: the host cannot be reached, or its disk is full.
    """

    async def put(link: Link) -> str:
        home = await link.home()
        there = {each: await link.send(path, file_digest(path), home) for each, path in files.items()}
        copies = " && ".join(f'cp {shlex.quote(path)} "$n"/{shlex.quote(each)}' for each, path in there.items())
        # The names are made sure of by the caller's manifest; they are quoted all the same.
        script = (
            f'd="$HOME"/{DEPLOYED}; t={shlex.quote(name)}; n="$d/.$t.new"; umask 022; mkdir -p "$d" && rm -rf "$n" && '
            f'mkdir "$n" && {copies} && rm -rf "$d/$t" && mv "$n" "$d/$t" && cd "$d/$t" && pwd -P'
        )
        return await _succeed(link, script)

    return _on(host, put)


def add_file(host: SshHost, folder: str, name: str, source: str) -> None:
    """Copy a file of the host into a deployed folder.

    Raises:
        TargetError: the host cannot be reached, the file is not there, or the disk is full.
    """

    async def copy(link: Link) -> str:
        return await _succeed(link, f"cp {shlex.quote(source)} {shlex.quote(f'{folder}/{name}')}")

    _on(host, copy)


async def _succeed(link: Link, script: str) -> str:
    code, told, errors = await link.run(f"sh -c {shlex.quote(script)}", seconds=600.0)
    if code:
        raise LinkError(f"cannot write there: {(errors.strip() or f'exit code {code}').splitlines()[-1]}")
    return told.strip()


def _on(host: SshHost, work: Callable[[Link], Awaitable[str]]) -> str:
    async def connected() -> str:
        async with open_link(host.address, host.settings) as link:
            return await work(link)

    try:
        return asyncio.run(connected())
    except LinkError as error:
        raise TargetError(f"{host.name}: {error}") from error
