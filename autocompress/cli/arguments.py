"""Arguments that several verbs read alike."""

from __future__ import annotations


def engine_names(text: str | None) -> list[str] | None:
    """The names in ``--engines A,B``; None where it was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
