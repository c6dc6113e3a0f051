"""Images a second in training: sesurgeon's two phases against the loop of timm's train.py, in turn.

    python benchmarks/finetune.py --data-dir DIR

The same network (timm's resnet50 with SE blocks inserted, or another), the same image files of Fashion-MNIST at the
same size through the same transform, batch, readers and optimiser, on the same machine. Each of the three has a process
of its own, as it has in use (the command sets up its process's memory, see cli/memory.py). They take turns, an epoch
each, while the others wait, so that what else the machine does falls on all alike; ratios are taken round by round.
timm's package has no train.py, so its loop is repeated here as it stands there (train_one_epoch of timm 1.0: loader,
forward, loss, backward, step, meters). DIR holds Fashion-MNIST as torchvision keeps it. Writes benchmarks/finetune.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import timm
import torch
from timm.data import create_loader
from timm.data.dataset import ImageDataset
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter
from torch import nn
from torchvision.datasets import FashionMNIST

import sesurgeon
from sesurgeon.cli.memory import keep_freed_memory
from sesurgeon.files import atomic_write
from sesurgeon.finetune import FinetuneConfig, open_data
from sesurgeon.finetune.data.augmentation import train_transform
from sesurgeon.finetune.data.loader import train_loader
from sesurgeon.finetune.data.sampler import UpdateSampler, UpdateSize
from sesurgeon.finetune.training.loop import Loop
from sesurgeon.finetune.training.objective import make_objective
from sesurgeon.finetune.training.phase_training import start_phase
from sesurgeon.finetune.training.phases import Phase
from sesurgeon.finetune.training.processes import make_accelerator
from sesurgeon.finetune.training.tally import Tally
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.surgery import blocks_of

TABLE = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Setting:
    """What all train on."""

    images: Path
    preprocessing: Preprocessing
    batch_size: int
    workers: int
    threads: int


SIDES = ("timm", "phase 2", "phase 1")


def main() -> None:
    options = parse()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(options.data_dir), Path(folder), options.images)
        size = (3, options.img_size, options.img_size)
        preprocessing = Preprocessing(size, (0.5,) * 3, (0.5,) * 3)
        setting = Setting(images, preprocessing, options.batch_size, options.workers, options.threads)
        for name in options.model:
            lines.append(row(name, options, measured(name, setting, options.rounds)))
            print(lines[-1], flush=True)
    with atomic_write(TABLE) as temporary:
        temporary.write_text(document(options, lines), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="holds FashionMNIST/raw")
    parser.add_argument("--model", action="append", default=[], help="of timm's; repeatable; default: resnet50")
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=256, help="an epoch")
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    parser.add_argument("-j", "--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    options.model = options.model or ["resnet50"]
    return options


def write_images(source: Path, folder: Path, count: int) -> Path:
    """The first images as PNG files in class folders."""
    dataset = FashionMNIST(str(source), train=True)
    for index in range(count):
        image, label = dataset[index]
        for split in ("train", "val"):
            path = folder / split / str(label)
            path.mkdir(parents=True, exist_ok=True)
            image.save(path / f"{index:05}.png")
    return folder


def timm_epoch(model: nn.Module, setting: Setting) -> Callable[[], float]:
    """One epoch of timm's train_one_epoch, without mixed precision, mixup or averaging, as is its default."""
    dataset = ImageDataset(str(setting.images / "train"))
    loader = create_loader(
        dataset,
        input_size=setting.preprocessing.input_size,
        batch_size=setting.batch_size,
        is_training=True,
        use_prefetcher=False,
        num_workers=setting.workers,
        mean=setting.preprocessing.mean,
        std=setting.preprocessing.std,
        device=torch.device("cpu"),
        persistent_workers=setting.workers > 0,
    )
    loader.dataset.transform = train_transform(setting.preprocessing)  # the same work for both
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.01)
    criterion = nn.CrossEntropyLoss()

    def epoch() -> float:
        model.train()
        losses, times, rates = AverageMeter(), AverageMeter(), AverageMeter()
        images, began, end = 0, time.perf_counter(), time.perf_counter()
        optimizer.zero_grad()
        for inputs, target in loader:
            loss = criterion(model(inputs), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(target))
            times.update(time.perf_counter() - end)
            rates.update(len(target) / times.val)
            end = time.perf_counter()
            images += len(target)
        return images / (time.perf_counter() - began)

    return epoch


def our_epoch(model: nn.Module, setting: Setting, phase: Phase) -> Callable[[], float]:
    """One epoch of a phase, as ``sesurgeon finetune`` trains it."""
    data = open_data(setting.images, workers=1)
    config = FinetuneConfig(batch_size=setting.batch_size, workers=setting.workers, device="cpu", log_with=())
    config = config.with_rates(new_head=False)
    accelerator = make_accelerator(config)
    images = data.split("train")
    updates = UpdateSampler(len(images), UpdateSize(setting.batch_size), config.seed)
    loader = train_loader(images, setting.preprocessing, tuple(range(10)), updates, workers=setting.workers)
    trainable = frozenset(name for name, _ in model.named_parameters())
    new = frozenset(blocks_of(model))
    training = start_phase(model, phase, new, trainable, config, updates.per_epoch, accelerator)
    objective = make_objective(config, 10, len(images), accelerator.device)
    loop = Loop(updates, loader, objective, config, accelerator, lambda event: None)
    number = iter(range(1000))

    def epoch() -> float:
        updates.start(next(number))
        tally = Tally()
        began = time.perf_counter()
        loop.train_epoch(training, tally, lambda *state: None)
        return tally.images / (time.perf_counter() - began)

    return epoch


def measured(name: str, setting: Setting, rounds: int) -> dict[str, list[float]]:
    """Images a second of each side, round by round; the first round warms up and does not count."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side in SIDES:
        pipes[side], theirs = context.Pipe()
        # the command sees to that before it imports torch (cli/memory.py), which here the start of a process does
        os.environ["THP_MEM_ALLOC_ENABLE"] = "0" if side == "timm" else "1"
        context.Process(target=take_turns, args=(side, name, setting, theirs)).start()  # no daemon: it may have readers
        pipes[side].recv()  # it is ready
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side in (*SIDES[number % 3 :], *SIDES[: number % 3]):
            pipes[side].send("go")
            speed = pipes[side].recv()
            if number:
                found[side].append(speed)
    for pipe in pipes.values():
        pipe.send("stop")
    return found


def take_turns(side: str, name: str, setting: Setting, pipe: Connection) -> None:
    """In a process of its own: an epoch whenever it is asked for."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    if side != "timm":
        keep_freed_memory()
    base = timm.create_model(name, num_classes=10)
    model = sesurgeon.add_se(base, torch.randn(2, *setting.preprocessing.input_size))
    phase = Phase("blocks" if side == "phase 1" else "all", 0, 1000)
    epoch = timm_epoch(model, setting) if side == "timm" else our_epoch(model, setting, phase)
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(epoch())


def row(name: str, options: argparse.Namespace, found: dict[str, list[float]]) -> str:
    cells = [name, f"{options.img_size} px", str(options.batch_size)]
    cells += [f"{statistics.median(found['timm']):.1f}"]
    for phase in ("phase 2", "phase 1"):
        ratios = [ours / peer for ours, peer in zip(found[phase], found["timm"], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return f"| {' | '.join(cells)} |"


def document(options: argparse.Namespace, lines: Sequence[str]) -> str:
    models = "".join(f" --model {name}" for name in options.model)
    return f"""# Training: images a second, against timm's loop

    python benchmarks/finetune.py --data-dir DIR{models} --img-size {options.img_size} -b {options.batch_size} \\
        --images {options.images} -j {options.workers} --threads {options.threads} --rounds {options.rounds}

Ratios of sesurgeon's images per second to those of timm {timm.__version__}'s training loop, both on the network with SE
blocks, in one process each, alternating, on {options.threads} CPU threads with torch {torch.__version__}: the median of
{options.rounds} rounds, with minimum and maximum. In phase 1 the backbone is frozen: its layers need no weight
gradients, and below the first block there is no backward pass. In phase 2 both train everything; sesurgeon's loop also
checks that each loss is finite and whether it should stop, and uses the optimiser's fused kernel. The command lets the
C library keep the memory that tensors free, and puts large tensors into huge pages.

| network | images | batch | timm, images/s | phase 2 : timm | phase 1 : timm |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
