"""Shows the demo's events: each command, its progress and its outcome."""

from __future__ import annotations

from sesurgeon.cli.shown.watching import Watcher
from sesurgeon.demo import BaseEpoch, DemoEvent, StepFinished, StepStarted


class Narrator(Watcher):
    """Shows each command as a user would type it before it runs, and its outcome and seconds afterwards."""

    def __call__(self, event: DemoEvent) -> None:
        """Show ``event``."""
        match event:
            case StepStarted(title, command):
                self.out.note(f"\n{title}", style="bold")
                if command:
                    self.out.note(f"$ {command}", style="cyan")
            case StepFinished(outcome, seconds):
                self.hide()
                self.out.note(f"{outcome} ({seconds:.1f} s)")
            case BaseEpoch(done, epochs, loss):
                self.show("Training", f" loss {loss:.4f}", done, epochs)
            case _:
                super().__call__(event)
