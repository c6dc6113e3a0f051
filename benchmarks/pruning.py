"""What pruning takes and what it costs: the network of ``fashion_mnist.py``, by how far its gates may vary.

    python benchmarks/pruning.py --data-dir DIR --work DIR

Both are those of ``fashion_mnist.py``, which leaves the fine-tuned network in the work folder. Writes
``benchmarks/pruning.md``.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from fashion_mnist import DATA, command

HERE = Path(__file__).parent
MODEL = "runs/finetune/fashion/best.pt"
TOLERANCES = ("0.01", "0.05", "0.1", "0.2", "0.5", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--max-drop", default="0.1")
    options = parser.parse_args()
    data = ("--data", DATA, "--data-dir", str(Path(options.data_dir).resolve()))
    gates = command("gates", MODEL, *data, work=options.work)
    rows = []
    for tolerance in TOLERANCES:
        limits = ("--tolerance", tolerance, "--max-drop", options.max_drop)
        found = command("prune", MODEL, *data, *limits, "-o", "pruned.pt", "--force", work=options.work)
        rows.append((tolerance, found))
    write_table(gates, rows, options.max_drop)


def write_table(gates: dict, rows: list[tuple[str, dict]], max_drop: str) -> None:
    """``pruning.md``."""
    lines = ["| gate | mean | spread over images | largest of a channel | over classes | over channels |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for gate in gates["gates"]:
        spreads = (gate[f"{over}_spread"] for over in ("image", "largest", "class", "channel"))
        lines.append(f"| `{gate['gate']}` | {gate['mean']:.4f} | {' | '.join(f'{spread:.4f}' for spread in spreads)} |")
    lines += ["", f"| `--tolerance` with `--max-drop {max_drop}` | blocks taken out | top-1 | ms a pass |"]
    lines += ["|---:|---:|---:|---:|"]
    blocks = len(gates["gates"])
    for tolerance, found in rows:
        time = f"{found['ms_before']:.2f} -> {found['ms_after']:.2f}" if found["removed"] else ""
        stopped = "; the next one would lose more" if any(not step["accepted"] for step in found["steps"]) else ""
        gone = f"{len(found['removed'])} of {blocks}{stopped}"
        lines.append(f"| {tolerance} | {gone} | {found['before']:.2f} -> {found['after']:.2f} % | {time} |")
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    made = (
        f"Fashion-MNIST, {gates['images']:,} test images, one network; the blocks were chosen by the same images. "
        "Times are medians of passes of one image, before and after in turn; where the same block goes, their "
        "differences show the noise.\n\n"
        "Made by `python benchmarks/pruning.py --data-dir DIR --work DIR` after `benchmarks/fashion_mnist.py` "
        f"(the committed numbers: `--base-epochs 3 --epochs 2`) with {versions}, on the CPU."
    )
    text = "\n".join([*lines, "", made, ""])
    (HERE / "pruning.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
