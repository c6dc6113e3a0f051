"""Every network of torchvision and timm: sites, surgery, proof, gradients, copies, removal.

    python benchmarks/zoo.py                           # all of them: hours on two cores; a second run goes on
    python benchmarks/zoo.py --retry failed            # once more what failed
    python benchmarks/zoo.py --only 'timm:resnet*'     # some
    python benchmarks/zoo.py --one-per-family          # the smallest of each family
    python benchmarks/zoo.py --resume benchmarks/zoo.json   # go on where that sweep ended

Each network in a process of its own, with random weights, at the smallest input that it takes. What was found is kept
in the working folder, one JSON line a network. Writes zoo.md and zoo.json: after a whole sweep beside this file, after
a partial one into the working folder. Needs ``pip install .``, Linux or macOS, and no network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from zoo.networks import Network, list_networks
from zoo.pool import Bounds, run_all
from zoo.report import write_report
from zoo.sweep import Record, Task, append_record, examine, measure, read_records

HERE = Path(__file__).resolve().parent
POLICIES = ("standard", "inner")
CHUNK = 30


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.resume is not None:
        take_records(options.resume, options.work / "records.jsonl")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    networks = [network for network in list_networks() if selected(network, options.only)]
    sizes = measured(networks, options)
    if options.one_per_family:
        networks = smallest_of_each_family(networks, sizes, options.one_per_family)
    partial = bool(options.only or options.one_per_family)
    sweep(tasks_of(networks, sizes, options), options)
    records = read_records(options.work / "records.jsonl")
    done = [records[str(network)] for network in networks if str(network) in records]
    print(write_report(options.work if partial else HERE, done, len(networks)))
    if options.fail and any(record["status"] == "failed" for record in done):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="GLOB", action="append", default=[], help="on LIBRARY:NAME; repeatable")
    parser.add_argument("--one-per-family", type=int, nargs="?", const=1, default=0, metavar="N", help="or N of each")
    parser.add_argument(
        "--retry", metavar="STATUS", action="append", default=[], help="as failed: records to make again"
    )
    parser.add_argument("--policy", action="append", default=[], help=f"default: {', '.join(POLICIES)}")
    parser.add_argument(
        "--onnx-every", type=int, default=120, metavar="N", help="of timm (default: 120; 0: none at all)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default: 2)")
    parser.add_argument("--seconds", type=float, default=600, help="the most a network may take (default: 600)")
    parser.add_argument("--gib", type=float, default=9, help="the most memory it may hold (default: 9)")
    parser.add_argument("--fail", action="store_true", help="exit code 1 when a network failed")
    parser.add_argument(
        "--resume", type=Path, metavar="ZOO.JSON", help="an unfinished sweep's result: what is in it is not done again"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="working folder (default: runs/zoo)")
    return parser.parse_args()


def take_records(result: Path, records: Path) -> None:
    """Put the networks of ``result`` that ``records`` does not have yet into it."""
    known = read_records(records)
    for record in json.loads(result.read_text(encoding="utf-8"))["networks"]:
        if f"{record['library']}:{record['name']}" not in known:
            append_record(records, record)


def selected(network: Network, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatchcase(str(network), glob) for glob in globs)


def measured(networks: Sequence[Network], options: argparse.Namespace) -> dict[str, Record]:
    """Convolutions and parameters of each, from an earlier run where there was one."""
    path = options.work / "sizes.jsonl"
    known = read_records(path)
    missing = [network for network in networks if str(network) not in known and "quantization" not in network.family]
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    for done in run_all(chunks, measure, jobs=options.jobs, bounds=Bounds(), log=options.work / "log.txt"):
        for record in done.result or ():
            append_record(path, record)
    return read_records(path)


def smallest_of_each_family(networks: Sequence[Network], sizes: dict[str, Record], count: int) -> list[Network]:
    """The ``count`` of each family with the fewest parameters, of those with convolutions."""
    with_convs = [network for network in networks if size(network, sizes)["convs"] > 4]
    by_family = sorted(with_convs, key=lambda network: (network.library, network.family))
    return [
        network
        for _, family in itertools.groupby(by_family, key=lambda network: (network.library, network.family))
        for network in sorted(family, key=lambda network: size(network, sizes)["parameters"])[:count]
    ]


def size(network: Network, sizes: dict[str, Record]) -> Record:
    return sizes.get(str(network), {"convs": -1, "parameters": 0})


def tasks_of(networks: Sequence[Network], sizes: dict[str, Record], options: argparse.Namespace) -> list[Task]:
    """What is left to do: light networks first, and those that take more than images last."""
    records = read_records(options.work / "records.jsonl")
    sample = onnx_sample(networks, sizes, options.onnx_every)
    left = [
        network
        for network in networks
        if str(network) not in records or records[str(network)]["status"] in options.retry
    ]
    left.sort(key=lambda network: (not network.classifies, network.library, weight(network, sizes)))
    policies = tuple(options.policy or POLICIES)
    return [Task(network, size(network, sizes)["convs"], policies, str(network) in sample) for network in left]


def weight(network: Network, sizes: dict[str, Record]) -> float:
    """Roughly, how long it will take."""
    return float(size(network, sizes)["convs"] * 50_000 + size(network, sizes)["parameters"])


def onnx_sample(networks: Sequence[Network], sizes: dict[str, Record], every: int) -> set[str]:
    """One of ``every`` of timm, and the lightest of each family of torchvision's classifiers; none for 0."""
    if not every:
        return set()
    in_scope = [network for network in networks if size(network, sizes)["convs"] > 4 and network.classifies]
    timm = [str(network) for network in in_scope if network.library == "timm"][::every]
    torchvision = sorted((one for one in in_scope if one.library == "torchvision"), key=lambda one: -weight(one, sizes))
    return {*timm, *{network.family: str(network) for network in torchvision}.values()}


def sweep(tasks: Sequence[Task], options: argparse.Namespace) -> None:
    bounds = Bounds(options.seconds, options.gib)
    results = run_all(tasks, examine, jobs=options.jobs, bounds=bounds, log=options.work / "log.txt")
    for number, done in enumerate(results, start=1):
        network = done.task.network
        record = done.result or {
            "library": network.library, "name": network.name, "family": network.family,
            "status": "failed", "reason": done.death, "error": "bound", "seconds": round(done.seconds, 2),
        }  # fmt: skip
        record["gib"] = round(done.gib, 2)
        append_record(options.work / "records.jsonl", record)
        print(f"{number}/{len(tasks)} {network} {record['status']} {record['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
