"""Where a command's words go: results to stdout, everything else to stderr, errors into exit codes."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import io
import json
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from sesurgeon.cli.asked.options import Talking
from sesurgeon.errors import SesurgeonError
from sesurgeon.interrupts import INTERRUPTED, interrupts_held

if TYPE_CHECKING:
    from rich.progress import Progress

_PIPE_WIDTH = 200
_LEAST_WIDTH = 80
_FAIL = ("strict", "surrogateescape", "surrogatepass")  # at characters that an encoding has not
_SHOWN = "sesurgeon.shown"  # what becomes of characters that a stream cannot write


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command speaks through.

    Attributes:
        results: stdout, for the command's result and nothing else.
        notes: stderr, for what happens on the way and for errors.
        json: the result is printed as JSON.
        quiet: nothing is said on the way, neither notes nor progress.
    """

    results: Console
    notes: Console
    json: bool
    quiet: bool

    def note(self, text: str, style: str | None = None) -> None:
        """Say what happens."""
        if not self.quiet:
            self.notes.print(text, style=style, soft_wrap=True)

    def working(self, text: str) -> contextlib.AbstractContextManager[object]:
        """Show ``text`` with a spinner for as long as the block takes, on a terminal."""
        return self.notes.status(Text(text)) if self._shows_progress else contextlib.nullcontext()

    def progress(self) -> Progress:
        """Bars for counted work; they show on a terminal only."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.notes,
            transient=True,
            disable=not self._shows_progress,
        )

    def result(self, rendered: RenderableType, data: Any) -> None:
        """Print what the command found: ``data`` as JSON with ``--json``, ``rendered`` otherwise.

        Args:
            rendered: for a person.
            data: for a program; dataclasses and paths may be in it. NaN and infinities, which JSON has not, become
                null.
        """
        if self.json:
            plain = json.loads(json.dumps(data, default=_plain), parse_constant=lambda _: None)
            text = json.dumps(plain, indent=2, ensure_ascii=False)
            if not _can_be_written(text, self.results.encoding):
                text = json.dumps(plain, indent=2)  # with escapes, which a reader turns back
            self.results.out(text, highlight=False)
        else:
            self.results.print(rendered)

    @property
    def _shows_progress(self) -> bool:
        return self.notes.is_terminal and not self.quiet


@contextlib.contextmanager
def reporting(talking: Talking, *, with_torch: bool = True) -> Iterator[Output]:
    """The frame of each command: gives its output, and turns what it raises into a message and an exit code.

    Args:
        talking: how it speaks.
        with_torch: it needs torch, which is loaded here: a Ctrl-C meanwhile would be dropped, or end the process.

    Raises:
        typer.Exit: with the error's ``exit_code``, with 130 after Ctrl-C, with 1 after anything unexpected.
    """
    results, notes = _console(sys.stdout, least_width=_LEAST_WIDTH), _console(sys.stderr)
    output = Output(results, notes, talking.json, talking.quiet)
    try:
        # a library that prints would spoil the result
        with contextlib.redirect_stdout(sys.stderr):
            if with_torch:
                with interrupts_held():
                    import_module("torch")
            yield output
    except SesurgeonError as error:
        _explain(output, f"Error: {error.message}", error.hint, debug=talking.debug)
        raise typer.Exit(error.exit_code) from error
    except typer.Exit:
        raise  # the command has said why
    except KeyboardInterrupt as error:
        _explain(output, "Interrupted.", None, debug=talking.debug)
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError:
        raise  # whoever read our result has gone: typer ends quietly
    except Exception as error:
        named = isinstance(error, OSError) and error.filename is not None  # it says what is wrong with which file
        hint = None if named or talking.debug else "This was not foreseen. Run it again with --debug for the traceback."
        _explain(output, f"Error: {type(error).__name__}: {error}", hint, debug=talking.debug)
        raise typer.Exit(1) from error


def _console(file: TextIO, least_width: int = 0) -> Console:
    # Markup, emoji and highlighting would change names that users gave; a pipe has no width that cuts tables. On a
    # narrow terminal lines of a table are wrapped, where columns squeezed into it could not be read.
    width = None if file.isatty() else _PIPE_WIDTH
    if isinstance(file, io.TextIOWrapper) and file.errors in _FAIL:
        file.reconfigure(errors=_SHOWN)  # rather than fail when the work is done
    console = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    if console.width < least_width:
        console.width = least_width
    return console


def _explain(output: Output, message: str, hint: str | None, *, debug: bool) -> None:
    if debug:
        output.notes.out(traceback.format_exc(), highlight=False)
    output.notes.print(message, style="red", soft_wrap=True)
    if hint is not None:
        output.notes.print(hint, soft_wrap=True)


def _can_be_written(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _shown(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that a stream cannot write.

    Bytes of a file's name that are no UTF-8, which Python keeps as surrogates, are shown as such.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "?" for code in codes), error.end


codecs.register_error(_SHOWN, _shown)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")
