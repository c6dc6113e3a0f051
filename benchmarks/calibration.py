"""How fresh SE blocks should start, and how fast they should learn: gates that move, and what that is worth.

    python benchmarks/calibration.py --data-dir DIR --work DIR

The small residual network of ``fashion_mnist.py``, trained on the 60,000 images (``base.pt`` in the work folder), gets
SE blocks and is fine-tuned on 12,000 of them: one epoch of the blocks alone, then everything. Each row is another start
of the blocks' first layer and another rate of theirs:

- random: PyTorch's initialisation.
- units: each hidden unit is given zero mean and unit variance over the first training images (``--calibrate``).
- channels: each channel's mean is, before; so that all of them have the same say in a unit.

Every run leaves a line in ``runs.jsonl`` of the work folder, and is not done again.
Writes ``benchmarks/calibration.md``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import fashion_mnist
import torch
from kept_runs import keep, mean_and_spread, runs_in
from torch import Tensor, nn
from torch.utils.data import Subset

import sesurgeon
from sesurgeon.blocks import UnitSums, standardise_
from sesurgeon.files import atomic_write
from sesurgeon.finetune import Data, EpochFinished, Event, FinetuneConfig, batches, open_data, preprocessing_for
from sesurgeon.finetune.scoring.gatewatch import watch_gates
from sesurgeon.surgery import blocks_of

TABLE = Path(__file__).with_suffix(".md")
STARTS = ("random", "units", "channels")
BASE_EPOCHS = 3
CALIBRATED_ON = 512
WATCHED = 16  # batches of validation images


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    base = options.work / "base.pt"
    if not base.exists():
        fashion_mnist.train_base(base, options.data_dir, BASE_EPOCHS, download=False)
    kept = options.work / "runs.jsonl"
    runs = runs_in(kept)
    data = subset(open_data(fashion_mnist.DATA, data_dir=options.data_dir), options.images)
    for key in wanted(options):
        if any(run["key"] == key for run in runs):
            continue
        runs.append({"key": key, **fine_tuned(base, data, key, options)})
        keep(runs[-1], kept)
        write(runs, options)
    write(runs, options)
    print(TABLE.read_text(encoding="utf-8"))


def write(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(runs, options), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mults", type=float, nargs="+", default=[1.0, 5.0, 20.0])
    return parser.parse_args()


def wanted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The runs, all of a seed before those of the next."""
    for seed in range(options.seeds):
        about = {"seed": seed, "images": options.images, "epochs": options.epochs}
        yield {"start": "no blocks", "mult": None, **about}
        for mult in options.mults:
            for start in STARTS:
                yield {"start": start, "mult": mult, **about}


def subset(data: Data, images: int) -> Data:
    """The first training images of Fashion-MNIST, whose order is random already, and all test images."""
    return replace(data, train=Subset(data.split("train"), range(images)))


def fine_tuned(base: Path, data: Data, key: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Top-1 before training and after each epoch, in per cent, and how far the gates go with the images."""
    plain = sesurgeon.load(str(base))
    torch.manual_seed(key["seed"])
    blocks = key["start"] != "no blocks"
    model = sesurgeon.add_se(plain, torch.zeros(2, 1, 28, 28)) if blocks else plain
    if key["start"] == "channels":
        standardise_channels(model, images_of(data, model, "train", CALIBRATED_ON))
    config = FinetuneConfig(
        epochs=options.epochs, batch_size=128, img_size=28, seed=key["seed"], workers=0, device="cpu", log_with=(),
        calibrate=key["start"] == "units", lr_block_mult=key["mult"] or 1.0,
        output=str(options.work / "runs"), name="run", force=True,
    )  # fmt: skip
    spread: list[list[float]] = []
    watched = images_of(data, model, "val", WATCHED * 64) if blocks else torch.empty(0)

    def watch(event: Event) -> None:
        if isinstance(event, EpochFinished) and event.row.epoch >= 0 and blocks:
            found = watch_gates(model, ((images, None) for images in watched.split(64)))
            spread.append([gate.image_spread for gate in found])

    result = sesurgeon.finetune(model, data, config, on_progress=watch)
    return {"top1": [row.scores["top1"] for row in result.rows], "spread": spread}


def images_of(data: Data, model: nn.Module, split: str, count: int) -> Tensor:
    """The first images of a set, as ``model`` sees them in evaluation."""
    stream = batches(data, preprocessing_for(model, data.split("train"), 28), split)
    return torch.cat([images for images, _ in islice(stream, -(-count // 64))])[:count]


@torch.no_grad()
def standardise_channels(model: nn.Module, images: Tensor) -> None:
    """Fold mean and deviation of each channel into the blocks' first layers, then those of the units."""
    layers = [block.hidden()[0] for block in blocks_of(model).values()]
    squeezed: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    hooks = [layer.register_forward_hook(lambda one, given, _: squeezed[one].append(given[0])) for layer in layers]
    model.eval()
    for batch in images.split(64):
        model(batch)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        channels = torch.cat(squeezed[layer])
        std, mean = torch.std_mean(channels, 0, correction=0)
        layer.weight.div_(torch.where(std > 1e-5 * mean.abs(), std, 1.0)[None])
        layer.bias.sub_((layer.weight * mean).sum((1, 2, 3)))
        standardise_(layer, UnitSums.of(layer(channels)))


def page(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    about = {"images": options.images, "epochs": options.epochs}
    runs = [run for run in runs if about.items() <= run["key"].items()]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["key"]["start"], run["key"]["mult"]), []).append(run)
    plain = {run["key"]["seed"]: run["top1"] for run in groups[("no blocks", None)]}
    lines = [
        "| blocks | runs | `lr_block_mult` | gates' spread over images after 1 epoch, block by block | at the end "
        f"| top-1 after 1 epoch | after {options.epochs} | against no blocks, same seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (start, mult), found in groups.items():
        against = [run["top1"][-1] - plain[run["key"]["seed"]][-1] for run in found if run["key"]["seed"] in plain]
        cells = (
            start, str(len(found)), "" if mult is None else f"{mult:g}",
            spreads([run["spread"][0] for run in found]) if mult else "",
            spreads([run["spread"][-1] for run in found]) if mult else "",
            mean_and_spread([run["top1"][1] for run in found]), mean_and_spread([run["top1"][-1] for run in found]),
            mean_and_spread(against, "+") if mult else "",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    before = runs[0]["top1"][0]
    words = f"--images {options.images} --epochs {options.epochs} --seeds {options.seeds} --mults "
    words += " ".join(f"{mult:g}" for mult in options.mults)
    return f"""# How blocks start, and how fast they learn

    python benchmarks/calibration.py --data-dir DIR --work DIR {words}

The small residual network of [fashion_mnist.py](fashion_mnist.py), six blocks, trained on the 60,000 images for
{BASE_EPOCHS} epochs ({before:.2f} % of the 10,000 test images), then fine-tuned on {options.images:,} of them: one
epoch of the blocks alone, {options.epochs - 1} of everything; the row without blocks trains everything for all
{options.epochs}. Mean and standard deviation over the seeds (runs), in per cent; the last column is paired by seed.
Differences of 0.1 mean nothing. Where there are fewer than {options.seeds} runs, the others are not done yet.
Spread: the standard deviation of the gate over images, averaged over its channels and over the seeds. Starts: "random"
is PyTorch's initialisation; "units" is `--calibrate`; "channels" also standardises each channel's mean first.

In five of the six blocks, calibrated gates move five times as far in the first epoch, and more; in the last one, which
moves by itself, up to twice as far. On images that the network has learned already that gains nothing: no start and no
rate beats training on without blocks (retrofit.md), and the starts differ by less than their spread. At the default
rate, 5, `--calibrate` loses least. It is the default because of what it gains on new images with a frozen backbone: 0.1
to 0.5 points of error with 1,000 and 6,000 images, while it costs 0.1 to 0.3 with 60,000 (adapt.md).

{table}

torch {torch.__version__}, on the CPU.
"""


def spreads(found: Sequence[Sequence[float]]) -> str:
    """Of each block, mean over the runs."""
    return " ".join(f"{statistics.mean(block):.3f}" for block in zip(*found, strict=True))


if __name__ == "__main__":
    main()
