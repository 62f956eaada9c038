"""Hosts: where an engine runs. Each runs the agent in a process of its own and tells how that ended."""

from autocompress.hardware.hosts.jobs import AgentJob, AgentReport, Host, read_report
from autocompress.hardware.hosts.local import LocalHost
from autocompress.hardware.hosts.opening import open_host

__all__ = ["AgentJob", "AgentReport", "Host", "LocalHost", "open_host", "read_report"]
