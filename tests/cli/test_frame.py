from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import autocompress
from autocompress import cli
from autocompress.errors import DataError, ExitCode

Fake = Callable[[Callable[[argparse.Namespace], int]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A verb ``fake`` with one option that does what a test wants."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = SimpleNamespace(__doc__="Fake.", run=run, add_arguments=add_arguments)
        monkeypatch.setitem(sys.modules, "autocompress.cli.fake", module)  # type: ignore[arg-type]
        monkeypatch.setattr(cli, "VERBS", (*cli.VERBS, cli.Verb("fake", "fake", "does what a test wants")))

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int)
        parser.add_argument("--json", action="store_true")

    return install


def fails_with(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_all_verbs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.DONE
    text = capsys.readouterr().out
    for name in (
        "search", "list", "show", "data", "measure", "targets", "probe", "calibrate", "verify", "predict", "report",
        "dashboard",
    ):  # fmt: skip
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", [verb.name for verb in cli.VERBS])
def test_every_verb_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith(f"usage: autocompress {name}")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autocompress.cli import main; main(['--help']); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'numpy', 'ray', 'optuna', 'pydantic', 'rich', 'yaml', 'monai', 'onnx'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"autocompress {autocompress.__version__}\n"


def test_the_exit_code_of_a_verb_is_that_of_the_program(verb: Fake) -> None:
    verb(lambda args: ExitCode.NOTHING_FEASIBLE)
    assert cli.main(["fake"]) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serch"], "unknown verb 'serch'; did you mean search? see autocompress --help"),
        (["--jsn"], "unknown option '--jsn'; see autocompress --help"),
        (["list"], "the following arguments are required: KIND (see autocompress list --help)"),
        (["list", "targets", "--jso"], "unrecognized arguments: --jso (see autocompress list --help)"),
        (["fake", "--number", "x"], "argument --number: invalid int value: 'x' (see autocompress fake --help)"),
        (["data", "describe"], "the following arguments are required: PATH (see autocompress data describe --help)"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: list[str], text: str, verb: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    verb(lambda args: 0)
    assert cli.main(arguments) == ExitCode.USER_ERROR
    assert capsys.readouterr() == ("", f"autocompress: error: {text}\n")


def test_a_mistake_of_the_user_gets_one_line(verb: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    verb(fails_with(DataError("nowhere/: no such folder;\n give another")))
    assert cli.main(["fake"]) == ExitCode.USER_ERROR
    assert capsys.readouterr() == ("", "autocompress: error: nowhere/: no such folder; give another\n")


def test_with_json_a_failure_is_the_last_line_of_the_output(verb: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        print('{"event": "started"}')
        raise DataError("nowhere/: no such folder")

    verb(run)
    assert cli.main(["fake", "--json"]) == ExitCode.USER_ERROR
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {
        "event": "error",
        "message": "nowhere/: no such folder",
        "exit_code": 2,
    }
    assert err == "autocompress: error: nowhere/: no such folder\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_full_or_closed_disk_is_told_with_its_file(code: int, verb: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    verb(fails_with(OSError(code, os.strerror(code), "/out/model.onnx")))
    assert cli.main(["fake"]) == ExitCode.USER_ERROR
    assert capsys.readouterr().err == f"autocompress: error: /out/model.onnx: {os.strerror(code)}\n"


def test_an_interruption_has_its_own_code(verb: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    verb(fails_with(KeyboardInterrupt()))
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr() == ("", "autocompress: interrupted\n")


def test_a_bug_says_how_to_see_its_traceback(
    verb: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb(fails_with(ZeroDivisionError("division by zero")))
    assert cli.main(["fake"]) == 1
    line = "autocompress: error: ZeroDivisionError: division by zero - this is a bug; "
    assert capsys.readouterr().err == f"{line}run again with AUTOCOMPRESS_DEBUG=1 for the traceback\n"
    monkeypatch.setenv("AUTOCOMPRESS_DEBUG", "1")
    assert cli.main(["fake"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert line in err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "import sys; from autocompress.cli import main; sys.exit(main(['list', 'spaces']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["list", "spaces"], ["list", "spaces", "--json"]])
def test_a_full_disk_under_the_output_is_told(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autocompress", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
    assert done.returncode == ExitCode.USER_ERROR
    assert done.stderr == "autocompress: error: No space left on device\n"
