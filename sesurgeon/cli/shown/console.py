"""Where a command prints: results to stdout, everything else to stderr; and errors as exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from sesurgeon.cli.shown.streams import Expendable, standard
from sesurgeon.errors import OutputError, SesurgeonError
from sesurgeon.interrupts import INTERRUPTED, interrupts_held

if TYPE_CHECKING:
    from rich.progress import Progress

    from sesurgeon.cli.asked.options import Talking

_PIPE_WIDTH = 200
_LEAST_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Output:
    """Prints what a command has to say.

    Attributes:
        results: stdout, for the command's result and nothing else.
        notes: stderr, for notes, progress and errors.
        json: print the result as JSON.
        quiet: print no notes and no progress.
    """

    results: Console
    notes: Console
    json: bool
    quiet: bool

    def note(self, text: str, style: str | None = None) -> None:
        """Print a note, unless ``quiet``."""
        if not self.quiet:
            self.notes.print(text, style=style, soft_wrap=True)

    def working(self, text: str) -> contextlib.AbstractContextManager[object]:
        """Show ``text`` with a spinner until the block ends, on a terminal only."""
        return self.notes.status(Text(text)) if self._shows_progress else contextlib.nullcontext()

    def progress(self) -> Progress:
        """Progress bars, on a terminal only."""
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
            data: for a program; it may contain dataclasses and paths. NaN and infinities, which JSON lacks, become
                null.

        Raises:
            OutputError: stdout cannot take it.
        """
        try:
            self._print(rendered, data)
        except BrokenPipeError:
            raise  # its reader wanted no more
        except OSError as error:
            raise OutputError(f"The result could not be printed: {error.strerror or error}.") from error

    def _print(self, rendered: RenderableType, data: Any) -> None:
        if self.json:
            plain = json.loads(json.dumps(data, default=_plain), parse_constant=lambda _: None)
            text = json.dumps(plain, indent=2, ensure_ascii=False)
            if not _can_be_written(text, self.results.encoding):
                text = json.dumps(plain, indent=2)  # with escapes, which JSON parsers decode
            self.results.out(text, highlight=False)
        else:
            self.results.print(rendered)

    @property
    def _shows_progress(self) -> bool:
        return self.notes.is_terminal and not self.quiet


@contextlib.contextmanager
def reporting(talking: Talking, *, with_torch: bool = True) -> Iterator[Output]:
    """The frame of each command: yields its output, and turns what it raises into a message and an exit code.

    Args:
        talking: what is printed.
        with_torch: import torch here, with interrupts held: a Ctrl-C during the import would get lost, or crash.

    Raises:
        typer.Exit: with the error's ``exit_code``, with 130 after Ctrl-C, or with 1 after anything unexpected.
    """
    with standard(sys.stdout) as stdout, standard(sys.stderr) as stderr:
        results = _console(stdout, least_width=_LEAST_WIDTH)
        printed = cast("TextIO", Expendable(stderr))
        output = Output(results, _console(printed), talking.json, talking.quiet)
        try:
            # libraries must not print into the result
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                if with_torch:
                    with interrupts_held():
                        import_module("torch")
                yield output
        except SesurgeonError as error:
            _explain(output, f"Error: {error.message}", error.hint, debug=talking.debug)
            raise typer.Exit(error.exit_code) from error
        except typer.Exit:
            raise  # the command has printed why
        except KeyboardInterrupt as error:
            _explain(output, "Interrupted.", None, debug=talking.debug)
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:
            raise  # the reader of our result has gone: typer exits quietly
        except Exception as error:
            named = isinstance(error, OSError) and error.filename is not None  # its message says which file and why
            hint = "This was not expected. Run it again with --debug for the traceback."
            _explain(
                output,
                f"Error: {type(error).__name__}: {error}",
                None if named or talking.debug else hint,
                debug=talking.debug,
            )
            raise typer.Exit(1) from error


def _console(file: TextIO, least_width: int = 0) -> Console:
    # Markup, emoji and highlighting would change names that users gave; a pipe has no width at which to cut tables. On
    # a narrow terminal the lines of a table wrap, because squeezed columns could not be read.
    width = None if file.isatty() else _PIPE_WIDTH
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


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")
