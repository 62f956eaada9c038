"""From the host of a hardware profile to something that runs the agent."""

from __future__ import annotations

from autocompress.errors import TargetError
from autocompress.hardware.hosts.jobs import Host
from autocompress.hardware.hosts.local import LocalHost


def open_host(kind: str) -> Host:
    """The host of a profile.

    Args:
        kind: ``local``.

    Raises:
        TargetError: this version cannot reach hosts of that kind.
    """
    if kind == "local":
        return LocalHost()
    raise TargetError(f"host kind {kind!r} cannot be reached by this version; only local engines can be measured")
