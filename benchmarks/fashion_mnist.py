"""A small ResNet trained on Fashion-MNIST, then the three commands on its file: what the README's table shows.

    python benchmarks/fashion_mnist.py --data-dir DIR --work DIR

DIR holds ``FashionMNIST/raw/*-ubyte*`` as torchvision keeps it (``--download`` fetches it). The base network is
trained once and kept in the work folder; the rest is done by the commands that a user types. Writes
``benchmarks/fashion_mnist.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

import sesurgeon
from sesurgeon.finetune import batches, open_data
from sesurgeon.models import provenance_of

HERE = Path(__file__).parent
DATA = "torchvision:FashionMNIST"
FORMATS = {"float32": ("--onnx",), "float16": ("--half",), "int8": ("--int8",)}


def small_resnet(
    channels: tuple[int, int, int] = (16, 32, 64), stride: int = 1, depth: int = 2, classes: int = 10
) -> ResNet:
    """Three stages of ``depth`` basic blocks on 28x28 greyscale images: 175 thousand parameters, by default."""
    model = ResNet(BasicBlock, (depth,) * 3, num_classes=classes, in_chans=1, channels=channels)
    width = channels[0]
    model.conv1 = nn.Conv2d(1, width, 3, stride, 1, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    model.maxpool = nn.Identity()
    model.layer4 = nn.Identity()
    model.layer1[0].conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    model.layer1[0].downsample = None
    return model


def images_and_labels(data_dir: str, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """All images as (N, 1, 28, 28) in [-1, 1], and their labels."""
    data = torchvision.datasets.FashionMNIST(data_dir, train=train, download=download)
    return (data.data[:, None].float() / 255 - 0.5) / 0.5, data.targets


def train_base(path: Path, data_dir: str, epochs: int, download: bool) -> float:
    """Train the base as its owner would have, save the whole module, give the seconds it took."""
    torch.manual_seed(0)
    images, labels = images_and_labels(data_dir, True, download)
    model = small_resnet()
    started = time.perf_counter()
    teach(model, images, labels, epochs)
    torch.save(model.eval(), path)
    return time.perf_counter() - started


def teach(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, shift: int = 2) -> None:
    """Plain training by hand: SGD, one cycle, whole batches flipped, and shifted by so many pixels at most."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(images))[: len(images) // 128 * 128].view(-1, 128):
            batch = images[index]
            batch = batch.flip(-1) if torch.rand(()) < 0.5 else batch
            down, right = torch.randint(-shift, shift + 1, (2,)).tolist()
            loss = nn.functional.cross_entropy(model(batch.roll((down, right), (-2, -1))), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}", flush=True)


def command(*words: str, work: Path) -> dict[str, object]:
    """Run one command as a user would, with ``--json``; print it; give what it said."""
    print("$ sesurgeon", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "sesurgeon", *words, "--json"], cwd=work, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def predictions(checkpoint: Path, onnx: Path, data_dir: str) -> dict[str, int]:
    """PyTorch's and onnxruntime's labels on all test images: correct ones, disagreements, and ties among these."""
    model = sesurgeon.load(checkpoint).eval()
    preprocessing = provenance_of(model).preprocessing
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    counts = dict.fromkeys(("images", "torch_correct", "onnx_correct", "different", "ties"), 0)
    data = open_data(DATA, data_dir=data_dir)
    for images, targets in batches(data, preprocessing, split="val"):
        with torch.no_grad():
            ours = model(images)
        theirs = torch.from_numpy(np.asarray(session.run(["logits"], {"input": images.numpy()})[0]))
        differ = ours.argmax(1) != theirs.argmax(1)
        top2 = ours.topk(2).values
        counts["images"] += len(images)
        counts["torch_correct"] += int((ours.argmax(1) == targets).sum())
        counts["onnx_correct"] += int((theirs.argmax(1) == targets).sum())
        counts["different"] += int(differ.sum())
        counts["ties"] += int((differ & (top2[:, 0] - top2[:, 1] < 1e-4)).sum())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--download", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    base = options.work / "fashion.pt"
    if not base.exists():
        seconds = train_base(base, options.data_dir, options.base_epochs, options.download)
        (options.work / "base_seconds.json").write_text(json.dumps(seconds))
    data = ("--data", DATA, "--data-dir", str(Path(options.data_dir).resolve()))
    shape = ("--img-size", "28")
    before = command("evaluate", "fashion.pt", *data, *shape, work=options.work)
    surgery = command("add-se", "fashion.pt", "--input-shape", "2,1,28,28", "--force", work=options.work)
    after = command("evaluate", "fashion.se.pt", *data, *shape, work=options.work)
    tuning = ("--epochs", str(options.epochs), "-b", "128", "--name", "fashion", "--force")
    tuned = command("finetune", *data, *shape, *tuning, work=options.work)
    best = "runs/finetune/fashion/best.pt"
    last = command("evaluate", best, *data, work=options.work)
    exports, counts = {}, {}
    for name, flags in FORMATS.items():
        calib = ("--calib", DATA, "--data-dir", data[-1]) if name == "int8" else ()
        exports[name] = command("export", best, *flags, *calib, "-o", f"{name}.onnx", "--force", work=options.work)
        counts[name] = predictions(options.work / best, options.work / f"{name}.onnx", options.data_dir)
    exports["pt2"] = command("export", best, "--pt2", "-o", "fashion.pt2", "--force", work=options.work)
    results = {"before": before, "surgery": surgery, "after": after, "tuned": tuned, "last": last, "exports": exports}
    (options.work / "results.json").write_text(json.dumps(results | {"predictions": counts}, indent=1))
    write_table(before, surgery, after, last, exports, counts, options)


def write_table(
    before: dict, surgery: dict, after: dict, last: dict, exports: dict, counts: dict, options: argparse.Namespace
) -> None:
    """``fashion_mnist.md``."""
    rows = [
        ("the base network, 175 thousand parameters", f"{before['top1']:.2f} %", ""),
        ("after `add-se`", f"{after['top1']:.2f} %", f"{len(surgery['blocks'])} blocks, outputs bit-identical"),
        (f"after `finetune`, {options.epochs} epochs", f"{last['top1']:.2f} %", "one seed, no control without SE"),
    ]
    for name, flags in FORMATS.items():
        found = counts[name]
        differ = (
            f"{found['different']} of {found['images']:,} labels differ from PyTorch's, {found['ties']} of them ties"
        )
        label = f"its ONNX file of {name} in onnxruntime (`{' '.join(flags)}`), {exports[name]['size'] / 1000:,.0f} kB"
        rows.append((label, f"{100 * found['onnx_correct'] / found['images']:.2f} %", differ))
    parity = f"largest difference to PyTorch {exports['pt2']['parity']['max_abs']:g}"
    rows.append(("its torch.export file (`--pt2`)", f"{last['top1']:.2f} %", parity))
    lines = ["| Fashion-MNIST, 10,000 test images | top-1 | |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    words = f"--data-dir DIR --work DIR --base-epochs {options.base_epochs} --epochs {options.epochs}"
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}"
    made = f"Made by `python benchmarks/fashion_mnist.py {words}` with {versions}, on the CPU."
    text = "\n".join([*lines, "", made, ""])
    (HERE / "fashion_mnist.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
