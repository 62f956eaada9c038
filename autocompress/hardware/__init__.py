"""Measuring: targets and their engines, hosts, the agent, the protocol, and the turnstile that keeps others out."""

from autocompress.hardware.records import Latency, Measurement, Outcome

__all__ = ["Latency", "Measurement", "Outcome"]
