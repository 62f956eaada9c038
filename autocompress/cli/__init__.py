"""The command ``autocompress``: one module per verb, and the frame that runs them.

A verb is a module with ``add_arguments(parser)`` and ``run(args) -> int``; it is imported only when it is used, so that
``autocompress --help`` answers at once. A verb returns its exit code and raises `UserError` for what the user can mend.

With ``--json``, results go to standard output as JSON and everything else to standard error; a failure adds a last line
``{"event": "error", "message": ..., "exit_code": ...}`` to standard output.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, cast

from autocompress import __version__
from autocompress.errors import ExitCode, UserError

PROGRAM = "autocompress"
BUG = 1
READER_GONE = 141  # 128 + SIGPIPE, as a shell reports it for any other program

# Causes outside the program that a user can mend; any other OSError is a bug that deserves its traceback.
_MENDABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """One verb: its name, the module in `autocompress.cli`, and one line of help."""

    name: str
    module: str
    help: str


VERBS = (
    Verb("search", "search", "search for the Pareto front of a study and export it as bundles"),
    Verb("list", "list_", "list what there is: targets, spaces, objectives, studies, models"),
    Verb("show", "show", "show one target, space, objective, study or model in full"),
    Verb("data", "data", "describe a data set and draw a contact sheet"),
    Verb("measure", "measure", "measure the latency of a model, bundle or configuration on a target"),
    Verb("targets", "targets", "tell which targets can be used here, and why others cannot"),
    Verb("probe", "probe", "reach a target: what it can do, its state, and whether it can be measured now"),
    Verb("calibrate", "calibrate", "measure some networks on a target and learn to predict the others"),
    Verb("verify", "verify", "check a bundle: checksums, parity, latency"),
    Verb("deploy", "deploy", "put a bundle on a board over SSH and check it there"),
    Verb("predict", "predict", "segment an image or a volume with a bundle"),
    Verb("studies", "studies", "list, rename, export, delete and upgrade studies"),
    Verb("report", "report", "write a study as one self-contained HTML file"),
    Verb("dashboard", "dashboard", "open optuna-dashboard on a study's database"),
)


class UsageError(UserError):
    """Arguments that a verb does not take."""


class VerbModule(Protocol):
    """What a module of a verb offers; its docstring is the text of ``autocompress VERB --help``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit code."""
        ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and go through the frame."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving the process."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (`autocompress.errors.ExitCode`, 1 for a bug)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has left, which is their choice.
        _forget_output()
        return READER_GONE
    except (Exception, KeyboardInterrupt) as error:
        message, code = _verdict(error)
        return _fail(message, code, arguments)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return ExitCode.DONE
    name = arguments[0]
    if name == "--version":
        print(f"{PROGRAM} {__version__}")
        return ExitCode.DONE
    verb = next((verb for verb in VERBS if verb.name == name), None)
    if verb is None:
        raise UsageError(_unknown_verb(name))
    module = cast(VerbModule, importlib.import_module(f"{__name__}.{verb.module}"))
    parser = Parser(
        prog=f"{PROGRAM} {verb.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_args(arguments[1:])
    except SystemExit:  # after --help
        return ExitCode.DONE
    return module.run(args)


def _unknown_verb(name: str) -> str:
    import difflib

    similar = difflib.get_close_matches(name, [verb.name for verb in VERBS], n=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    kind = "option" if name.startswith("-") else "verb"
    return f"unknown {kind} {name!r}; {hint}see {PROGRAM} --help"


def _help() -> str:
    width = max(len(verb.name) for verb in VERBS)
    verbs = "\n".join(f"  {verb.name:{width}}  {verb.help}" for verb in VERBS)
    return f"""\
usage: {PROGRAM} VERB [arguments] | --help | --version

Search for compressed segmentation transformers that run well on the device you have.

verbs:
{verbs}

'{PROGRAM} VERB --help' tells the arguments of a verb. A first search, on built-in phantoms:
  {PROGRAM} search --target cpu --min-dice 75 --budget 15m

exit codes: 0 done, 2 a mistake that you can mend, 3 nothing feasible, 130 interrupted (the same command goes on)
environment: AUTOCOMPRESS_CACHE and AUTOCOMPRESS_CONFIG move the folders of caches and of your own YAML files,
             AUTOCOMPRESS_DEBUG=1 adds tracebacks to errors"""


def _verdict(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitCode.INTERRUPTED
    if isinstance(error, UserError):
        return str(error), ExitCode.USER_ERROR
    if isinstance(error, OSError) and error.errno in _MENDABLE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", ExitCode.USER_ERROR
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{text} - this is a bug; run again with AUTOCOMPRESS_DEBUG=1 for the traceback", BUG


def _fail(message: str, code: int, arguments: list[str]) -> int:
    if os.environ.get("AUTOCOMPRESS_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"{PROGRAM}: {line}" if code == ExitCode.INTERRUPTED else f"{PROGRAM}: error: {line}", file=sys.stderr)
    try:
        if "--json" in arguments:
            print(json.dumps({"event": "error", "message": line, "exit_code": int(code)}))
        sys.stdout.flush()
    except OSError:
        # Standard output may be what failed: a full disk, a reader that left. The exit code still tells.
        _forget_output()
    return int(code)


def _forget_output() -> None:
    """Let nothing that is still buffered fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
