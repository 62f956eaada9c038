"""From the host of a hardware profile to something that runs the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.hardware.hosts.jobs import Host
from autocompress.hardware.hosts.local import LocalHost

if TYPE_CHECKING:
    from autocompress.specs.schemas import HostSpec


def open_host(spec: HostSpec) -> Host:
    """The host of a profile; nothing is connected before it is used.

    Raises:
        TargetError: a host of kind ``ssh`` without an address, or with one that is none.
    """
    if spec.kind == "local":
        return LocalHost()
    # asyncssh takes a third of a second to import, which no local search should pay.
    from autocompress.hardware.hosts.address import addresses
    from autocompress.hardware.hosts.pool import HostPool
    from autocompress.hardware.hosts.ssh import SshHost

    return HostPool(tuple(SshHost(each) for each in addresses(spec)))
