"""Errors that a user can cause, and the exit codes of the command line.

Every error below is shown as one line (what, where, what to do), never as a traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``autocompress``; the same for every verb."""

    DONE = 0
    USER_ERROR = 2
    NOTHING_FEASIBLE = 3
    INTERRUPTED = 130


class UserError(Exception):
    """A mistake that the user can mend; its text is one line that says what, where and what to do."""


class ConfigError(UserError):
    """A compression configuration that cannot exist, or that a model family cannot build."""


class SpecError(UserError):
    """A YAML file (search space, objective, hardware profile, study) that is wrong or not found."""


class DataError(UserError):
    """A data set that is missing, damaged or inconsistent."""


class TargetError(UserError):
    """A target that cannot be used here: engine not installed, host out of reach, capability missing."""


class HeldBackError(TargetError):
    """The host of a target was lost in the middle of a trial, which is held back and asked again later."""


class BundleError(UserError):
    """A bundle that is missing, damaged, or does not do what its manifest says."""


class StorageError(UserError):
    """A study database that cannot be opened: other version, locked by another driver, unreachable."""


class NothingFeasibleError(UserError):
    """A search that found no model within its constraints; the text tells the nearest miss."""
