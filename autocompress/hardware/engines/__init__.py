"""Engines: what executes an exported model. They run in the agent alone; here is what people are told of them."""

from autocompress.hardware.engines.catalogue import (
    AGENT_ENGINES,
    PROGRAM_ENGINES,
    build_seconds,
    install_hint,
    licence_notice,
    remote_hint,
)

__all__ = ["AGENT_ENGINES", "PROGRAM_ENGINES", "build_seconds", "install_hint", "licence_notice", "remote_hint"]
