"""The frame of each command: what goes to which stream, and which exit code an error has."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import sesurgeon
from sesurgeon import errors
from sesurgeon.cli.asked.options import Talking
from sesurgeon.cli.shown import console
from sesurgeon.cli.shown.console import reporting

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1])}


def outcome(error: BaseException, *, debug: bool = False) -> int:
    """The exit code of a command that raises ``error``."""
    with pytest.raises(typer.Exit) as caught, reporting(Talking(debug=debug)):
        raise error
    return int(caught.value.exit_code)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.UnreadableFileError, 3),
        (errors.UnsafeFileError, 3),
        (errors.NoSiteError, 4),
        (errors.UntraceableError, 4),
        (errors.VerificationError, 5),
        (errors.OutputError, 1),
        (errors.DataError, 1),
    ],
)
def test_each_error_has_its_exit_code_and_is_told_once(
    kind: type[errors.SesurgeonError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(kind("It is [torn].", hint="Mend it.")) == code
    assert capsys.readouterr() == ("", "Error: It is [torn].\nMend it.\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("on_error", ["strict", "surrogateescape"])  # the latter in the locale C
@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_stream_cannot_write_does_not_lose_the_result(
    encoding: str, on_error: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "64→4 caf\udce9 é 😀"
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding, errors=on_error))
    with reporting(Talking(json=as_json)) as out:
        out.result(name, {"name": name})
    sys.stdout.flush()
    written = file.getvalue().decode(encoding)
    if as_json:
        assert json.loads(written) == {"name": name}
    else:
        shown = {"latin-1": "64?4 caf\\xe9 é ?", "ascii": "64?4 caf\\xe9 ? ?", "utf-8": "64→4 caf\\xe9 é 😀"}
        assert written == shown[encoding] + "\n"


def test_a_file_that_the_system_refuses_is_named_without_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(OSError(36, "File name too long", "x" * 5)) == 1
    assert capsys.readouterr().err == "Error: OSError: [Errno 36] File name too long: 'xxxxx'\n"


def test_ctrl_c_while_torch_is_loaded_counts_when_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = []

    def load(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        loaded.append(name)

    monkeypatch.setattr(console, "import_module", load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under
    try:
        with pytest.raises(typer.Exit) as caught, reporting(Talking()):
            pytest.fail("It went on.")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (loaded, caught.value.exit_code) == (["torch"], 130)
    assert capsys.readouterr() == ("", "Interrupted.\n")


@pytest.mark.parametrize(("columns", "width"), [(50, 80), (120, 120)])
def test_tables_are_not_squeezed_into_a_narrow_terminal(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    with reporting(Talking(), with_torch=False) as out:
        assert out.results.width == width


def test_ctrl_c_is_130_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")


def test_what_was_not_foreseen_is_one_line_and_points_to_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(KeyError("name")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: KeyError: 'name'\n")
    assert "--debug" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("error", [KeyError("name"), errors.UsageError("No.")])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    code = outcome(error, debug=True)
    assert code == getattr(error, "exit_code", 1)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_reader_that_went_away_is_left_to_typer() -> None:
    with pytest.raises(BrokenPipeError), reporting(Talking()):
        raise BrokenPipeError


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"path": Path("a") / "b.onnx", "name": "é[b]" * 100, "nothing": None}
    with reporting(Talking(json=True)) as out:
        print("a library prints")
        out.note("Reading.")
        with out.working("Working"), out.progress() as progress:
            progress.advance(progress.add_task("images", total=1))
        out.result("a table", data)
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout) == {"path": str(Path("a") / "b.onnx"), "name": "é[b]" * 100, "nothing": None}
    assert stderr == "a library prints\nReading.\n"


def test_quiet_leaves_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(Talking(quiet=True)) as out:
        out.note("Reading.")
        out.result("the result", {})
    assert capsys.readouterr() == ("the result\n", "")


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "layer[bold]/:smile:/" + "x" * 300
    with reporting(Talking()) as out:
        out.note(name)
    assert capsys.readouterr().err == f"{name}\n"


def test_what_json_has_no_number_for_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(Talking(json=True)) as out:
        out.result("", {"limit": math.inf, "losses": [math.nan, 0.5], "name": "NaN"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "limit": None, "losses": [None, 0.5], "name": "NaN",
    }  # fmt: skip


class Full(io.StringIO):
    """A stream that nothing can be written to, but that is a terminal."""

    def __init__(self, error: type[OSError]) -> None:
        super().__init__()
        self.error = error

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        raise self.error(28, "No space left on device")


@pytest.mark.parametrize("error", [OSError, BrokenPipeError])
def test_what_nobody_can_read_ends_nothing(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Full(error))
    with reporting(Talking(), with_torch=False) as out:
        out.note("Reading.")
        print("a library prints")
        with out.working("Working"), out.progress() as progress:
            progress.advance(progress.add_task("images", total=1))
        out.result("the result", {})
    assert capsys.readouterr().out == "the result\n"
    assert outcome(KeyboardInterrupt()) == 130
    assert outcome(errors.UsageError("No.", hint="Yes.")) == 2


@pytest.mark.parametrize("error", [OSError, BrokenPipeError])
def test_a_result_that_cannot_be_written_is_an_error(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(error))
    with pytest.raises((typer.Exit, SystemExit)), reporting(Talking(), with_torch=False) as out:
        out.result("the result", {})
    if error is OSError:
        assert capsys.readouterr().err == "Error: The result could not be printed: No space left on device.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("ending", "printed"),
    [
        (">&-", ("", "note\n")),
        ("2>&-", ("result\n", "")),
        (">&- 2>&-", ("", "")),
        ("2>/dev/full", ("result\n", "")),
    ],
)
def test_closed_and_full_streams_are_no_errors(ending: str, printed: tuple[str, str]) -> None:
    program = (
        "from sesurgeon.cli.asked.options import Talking; from sesurgeon.cli.shown.console import reporting\n"
        "with reporting(Talking(), with_torch=False) as out: out.note('note'); out.result('result', {})"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "{program}" {ending}', shell=True, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, *printed)
