"""Runs that are kept, a line of JSON each, so that a script that was stopped goes on; and what several of them say."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def runs_in(path: Path) -> list[dict[str, Any]]:
    """All that were kept; to be read anew before each run, as another script may be at work on other seeds."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(run: dict[str, Any], path: Path) -> None:
    """Add a line, and show it."""
    with path.open("a") as file:
        file.write(f"{json.dumps(run)}\n")
    print(run, flush=True)


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """With two places; of a single value there is no spread."""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
