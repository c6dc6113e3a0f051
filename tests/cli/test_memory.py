"""What tensors free stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sesurgeon.cli import memory

# how many pages are handed out while a block of 16 MB is taken, written and freed ten times
SCRIPT = """
import resource, sys
import numpy
if sys.argv[1] == "keep":
    from sesurgeon.cli.memory import keep_freed_memory
    keep_freed_memory()
numpy.ones(2**21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one, other = numpy.ones(2**21), numpy.ones(2**21)
    del one, other
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True, env={**clean, **environment}
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_what_is_freed_is_not_handed_out_anew() -> None:
    plain = page_faults("plain", MALLOC_MMAP_THRESHOLD_="131072")
    assert page_faults("keep") < plain / 2
    assert page_faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > plain / 2  # the user's word counts


class Glibc:
    """What is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, option: int, value: int) -> None:
        self.asked.append((option, value))


def opened_with(library: object, monkeypatch: pytest.MonkeyPatch, **environment: str) -> int:
    """How often :func:`keep_freed_memory` opens the C library, which is ``library``."""
    opened = []
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda name: opened.append(name) or library))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    for name, value in {"THP_MEM_ALLOC_ENABLE": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    memory.keep_freed_memory()
    return len(opened)


@pytest.mark.skipif(os.name != "posix", reason="nothing is done there")
def test_glibc_alone_is_told_and_only_where_the_user_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Glibc()
    assert opened_with(library, monkeypatch, MALLOC_ARENA_MAX="2") == 0
    assert opened_with(library, monkeypatch) == 1
    assert library.asked == [(-3, 32 * 2**20), (-1, 2**31 - 1)]
    assert opened_with(object(), monkeypatch) == 1  # has no mallopt that could be called


def test_the_process_ends_without_a_last_collection() -> None:
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0, gc.get_threshold()[0] >= 10_000));"
        "from sesurgeon.cli.memory import collect_seldom; before = gc.get_threshold()[1:]; collect_seldom();"
        "print(gc.isenabled(), gc.get_threshold()[1:] == before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["True True", "True True"]  # what is registered last runs first
