"""How long commands take, beside what they cannot do without.

    python benchmarks/command.py
    python benchmarks/command.py --large        # and the memory of a network of 2.5 GB; minutes

Whole processes in turn, each round in another order. Beside `sesurgeon --help` stands a Python that imports typer and
rich; beside `add-se` on a ResNet-50 file a script that imports what it must, loads the file, runs the network twice,
and saves it. Surgery of ResNet-152 is timed against that of ResNet-50, in one process, which looks for cyclic garbage
as seldom as the command does. Memory is the largest resident size of the process, above that of one that only imports
the same.
Writes benchmarks/command.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision

import sesurgeon
from sesurgeon.cli.memory import collect_seldom
from sesurgeon.files import atomic_write

TABLE = Path(__file__).with_suffix(".md")
SESURGEON = [sys.executable, "-m", "sesurgeon"]
BY_HAND = """
import torch, torchvision
model = torch.load("resnet50.pt", weights_only=False).eval()
with torch.no_grad():
    for _ in range(2):
        model(torch.randn(2, 3, 224, 224))
torch.save(model, "saved.pt")
"""
IMPORTS = "import torch, torchvision, timm, sesurgeon.surgery, sesurgeon.export"
# From a process of its own: a fresh one counts what its parent had when it was made.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet50(), "resnet50.pt")
        rows = [
            row(
                "`sesurgeon --help`",
                'python -c "import typer, rich"',
                seconds_of([*SESURGEON, "--help"]),
                seconds_of([sys.executable, "-c", "import typer, rich"]),
                2 * options.rounds,
            ),
            row(
                "`sesurgeon add-se resnet50.pt`",
                "import, load, run twice, save",
                seconds_of([*SESURGEON, "add-se", "resnet50.pt", "-o", "out.se.pt", "--force", "--quiet"]),
                seconds_of([sys.executable, "-c", BY_HAND]),
                options.rounds,
            ),
            row(
                "`add_se`, ResNet-152",
                "`add_se`, ResNet-50",
                surgery_of("resnet152"),
                surgery_of("resnet50"),
                options.rounds,
            ),
        ]
        memory = large() if options.large else "Not measured (`--large`)."
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(options, rows, memory), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", action="store_true")
    return parser.parse_args()


def seconds_of(command: Sequence[str]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began

    return run


def surgery_of(name: str) -> Callable[[], float]:
    model = torchvision.models.get_model(name)
    images = torch.randn(2, 3, 64, 64)
    collect_seldom()

    def run() -> float:
        began = time.perf_counter()
        sesurgeon.add_se(model, images)
        return time.perf_counter() - began

    return run


def row(ours: str, peer: str, run_ours: Callable[[], float], run_peer: Callable[[], float], rounds: int) -> str:
    pairs = []
    for turn in range(rounds + 1):
        first, second = (run_ours, run_peer) if turn % 2 else (run_peer, run_ours)
        one, other = first(), second()
        if turn:  # the first round warms up
            pairs.append((one, other) if first is run_ours else (other, one))
    ratios = sorted(a / b for a, b in pairs)
    times = [statistics.median(column) for column in zip(*pairs, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(ours, spread, flush=True)
    return f"| {ours} | {peer} | {times[0]:.2f} s | {times[1]:.2f} s | {spread} |"


def large() -> str:
    """timm's regnety_1280 from a local file: its branches have SE already, so blocks go behind all convolutions."""
    import timm

    path = Path("regnety_1280.pth")
    torch.save(timm.create_model("regnety_1280").state_dict(), path)
    where = ["--policy", "conv", "--rd-ratio", "0.015625"]
    command = ["add-se", str(path), "--arch", "timm:regnety_1280", *where, "-o", "large.se.pt", "--quiet"]
    above = peak([*SESURGEON, *command]) - peak([sys.executable, "-c", IMPORTS])
    size = path.stat().st_size
    return (
        f"    sesurgeon {' '.join(command)}\n\n"
        f"on a file of {size / 1e9:.2f} GB takes {above / 1e9:.2f} GB at its peak above its imports, "
        f"{above / size:.2f} of the file."
    )


def peak(command: Sequence[str]) -> int:
    """The largest resident size of a process, in bytes (Linux)."""
    return int(subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True).stdout)


def page(options: argparse.Namespace, rows: Sequence[str], memory: str) -> str:
    flag = " --large" if options.large else ""
    return f"""# What commands cost above the work they must do

    python benchmarks/command.py --rounds {options.rounds}{flag}

Medians of {options.rounds} rounds ({2 * options.rounds} for the first row), and the median ratio with minimum and
maximum; torch {torch.__version__}, Python {sys.version.split()[0]}. The command collects cyclic garbage less often and,
except for large files, keeps freed memory (cli/memory.py); the reference uses the defaults of Python and the C library.

| measured | compared with | measured | reference | ratio |
| --- | --- | ---: | ---: | ---: |
{chr(10).join(rows)}

{memory}
"""


if __name__ == "__main__":
    main()
