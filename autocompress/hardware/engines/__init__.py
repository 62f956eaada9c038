"""Engines: what executes an exported model. They run in the agent alone; here is what people are told of them."""

from autocompress.hardware.engines.catalogue import AGENT_ENGINES, install_hint, licence_notice

__all__ = ["AGENT_ENGINES", "install_hint", "licence_notice"]
