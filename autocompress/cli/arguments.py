"""Arguments that several verbs read alike."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from autocompress.errors import UserError

if TYPE_CHECKING:
    from autocompress.hardware.targets import Hosts
    from autocompress.specs.schemas import HardwareProfile


def engine_names(text: str | None) -> list[str] | None:
    """The names in ``--engines A,B``; None where it was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def add_host_argument(parser: argparse._ActionsContainer) -> None:
    """Declare ``--host``."""
    parser.add_argument(
        "--host",
        metavar="USER@BOARD",
        action="append",
        help="where the engines of a target on another machine run, over SSH: [user@]name[:port], also an alias of "
        "~/.ssh/config; several boards of one kind share the work",
    )
    parser.add_argument("--identity-file", metavar="FILE", help="private key for --host; else what ~/.ssh/config says")
    parser.add_argument("--jump-host", metavar="USER@HOST", help="go through this machine to --host")


def hosts_of(args: argparse.Namespace) -> Hosts:
    """What ``--host`` and its companions say.

    Raises:
        UserError: a companion without ``--host``.
    """
    from autocompress.hardware.targets import Hosts

    for name in ("identity_file", "jump_host"):
        if getattr(args, name, None) is not None and not args.host:
            raise UserError(f"--{name.replace('_', '-')} goes with --host USER@BOARD")
    return Hosts(tuple(args.host or ()), getattr(args, "identity_file", None), getattr(args, "jump_host", None))


def with_hosts(profile: HardwareProfile, args: argparse.Namespace) -> HardwareProfile:
    """The profile on the hosts of ``--host``.

    Raises:
        TargetError: an address that is none, or a profile whose engines run on this machine.
    """
    from autocompress.hardware.targets import on_hosts

    tell_about_hosts()
    return on_hosts(profile, hosts_of(args))


class _ToErrors(logging.Handler):
    """To the standard error, whatever that is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"note: {record.getMessage()}", file=sys.stderr, flush=True)


def tell_about_hosts() -> None:
    """Let what happens to links and boards, such as a wait, be seen on the standard error."""
    logger = logging.getLogger("autocompress.hardware.hosts")
    if not any(isinstance(each, _ToErrors) for each in logger.handlers):
        logger.addHandler(_ToErrors(logging.WARNING))
        logger.propagate = False
