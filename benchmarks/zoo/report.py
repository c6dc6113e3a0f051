"""The tables: zoo.md for people, zoo.json for programs."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from sesurgeon.files import atomic_write

Record = dict[str, Any]
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
KINDS = ("residual", "concat", "conv", "fork", "shortcut", "sum")


def write_report(folder: Path, records: Sequence[Record], wanted: int) -> str:
    """Write zoo.md and zoo.json into ``folder``; the totals in one line.

    Args:
        folder: where to.
        records: one a network.
        wanted: how many networks there should be.
    """
    records = sorted(records, key=lambda record: (record["library"] != "torchvision", record["family"], record["name"]))
    data = {"versions": versions(), "networks": records}
    for name, text in (("zoo.json", _lines_of_json(data)), ("zoo.md", markdown(records, wanted))):
        with atomic_write(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return f"{len(records)} of {wanted} networks: " + ", ".join(
        f"{number} {status}" for status, number in Counter(record["status"] for record in records).most_common()
    )


def versions() -> dict[str, str]:
    """Of what was measured and what measured it."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def markdown(records: Sequence[Record], wanted: int) -> str:
    """The whole of zoo.md."""
    unfinished = (
        ""
        if len(records) == wanted
        else f"\nUnfinished: {len(records)} of {wanted} networks; `--resume benchmarks/zoo.json` goes on.\n"
    )
    return f"""# The zoo: every network of torchvision and timm

    python benchmarks/zoo.py
{unfinished}
For each network, with random weights and two inputs of the smallest side that it takes (one of 384 pixels and more),
and with the blocks of the policies `standard` and `inner` together: finite outputs, `torch.equal` to those of the
untouched network in eval and in train mode, by sesurgeon's own proof and once more on other inputs; every original
state-dict key in its place, and no new key but the blocks'; a gradient in every parameter of every block after two
steps; then, with gates that have moved by up to a tenth, equal outputs of a deep copy; keys and outputs as before after
removal. For a sample, the outputs of the ONNX file with those gates in onnxruntime.

{_totals(records)}

{_onnx(records)}

## By family

Sites of all networks of the family, by kind; those that have attention already included. Seconds: median of a network.

{_families(records)}

## Failures

{_failures(records)}

## Blocks on which no output depends

The network computes something there and drops it (a last layer's map beside its class token), so that its own layers
get no gradient either; or the tensor is zero where the network goes on with it.

{_idle(records)}

## Networks without a place for channel attention

They are told so, with exit code 4, and counted apart.

{_messages(records, "no site")}

## Attention everywhere already

{_messages(records, "attention")}

## Refused

{_messages(records, "refused")}

## Versions

{", ".join(f"{name} {number}" for name, number in versions().items())}; on the CPU.
"""


def _totals(records: Sequence[Record]) -> str:
    rows = []
    for library in ("torchvision", "timm"):
        counts = Counter(record["status"] for record in records if record["library"] == library)
        apart = counts["refused"] + counts["few"] + counts["no site"]
        with_sites = counts.total() - apart
        good = counts["ok"] + counts["attention"]
        share = f"{100 * good / with_sites:.1f} %" if with_sites else ""
        rows.append([
            library, counts.total(), counts["few"], counts["refused"], counts["no site"], with_sites, counts["ok"],
            counts["attention"], counts["failed"], f"{good} of {with_sites} = {share}",
        ])  # fmt: skip
    header = [
        "library", "networks", "four convolutions or fewer (timm)", "quantised, refused", "no site, told so",
        "left", "blocks inserted and proved", "all have attention, told so", "failed", "right",
    ]  # fmt: skip
    return table(header, rows)


def _onnx(records: Sequence[Record]) -> str:
    sample = [(record, onnx) for record in records if (onnx := _onnx_of(record))]
    compared = [onnx["max_rel"] for _, onnx in sample if "max_rel" in onnx]
    without = [str(record["name"]) for record, onnx in sample if "max_rel" not in onnx]
    text = f"ONNX: {len(sample)} networks with blocks exported, {len(compared)} compared"
    text += f", largest difference {max(compared):.1e} of the outputs' spread." if compared else "."
    if without:
        text += f" Not exported, with blocks or without: {', '.join(without)}."
    return text


def _onnx_of(record: Record) -> Record | None:
    found = [result["onnx"] for result in record.get("policies", {}).values() if "onnx" in result]
    return found[0] if found else None


def _families(records: Sequence[Record]) -> str:
    families: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["status"] != "few":
            families[f"{record['library']} {record['family']}"].append(record)
    header = ["family", "networks", "ok", "attention", "no site", "refused", "failed", *KINDS]
    return table([*header, "blocks: standard", "inner", "s"], [_family(name, of) for name, of in families.items()])


def _family(name: str, records: Sequence[Record]) -> list[Any]:
    status = Counter(record["status"] for record in records)
    kinds: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for record in records:
        kinds.update(record.get("sites", {}))
        blocks.update({policy: result.get("blocks", 0) for policy, result in record.get("policies", {}).items()})
    states = [status[state] for state in ("ok", "attention", "no site", "refused", "failed")]
    numbers = [*states, *(kinds[kind] for kind in KINDS), blocks["standard"], blocks["inner"]]
    return [name, len(records), *(number or "" for number in numbers), f"{median(r['seconds'] for r in records):.1f}"]


def _failures(records: Sequence[Record]) -> str:
    failed = [record for record in records if record["status"] == "failed"]
    rows = [[record["library"], record["name"], _last_step(record), _one_line(record["reason"])] for record in failed]
    return table(["library", "network", "step", "reason, as the user sees it"], rows) if rows else "None."


def _last_step(record: Record) -> str:
    return next(reversed(record.get("took", {"": 0})))


def _idle(records: Sequence[Record]) -> str:
    rows = [
        f"- {record['library']}:{record['name']}, `{policy}`: {', '.join(result['idle'])}"
        for record in records
        for policy, result in record.get("policies", {}).items()
        if result.get("idle")
    ]
    return "\n".join(rows) or "None."


def _messages(records: Sequence[Record], status: str) -> str:
    """Networks by what they are told, most common first."""
    told: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record["status"] == status:
            told[_one_line(record["reason"])].append(f"{record['library']}:{record['name']}")
    return "\n".join(f"- {message}\n  {len(names)}: {', '.join(names)}" for message, names in told.items()) or "None."


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _lines_of_json(data: dict[str, Any]) -> str:
    """One network a line, so that a difference between two sweeps can be read."""
    networks = ",\n".join(json.dumps(record) for record in data["networks"])
    return f'{{"versions": {json.dumps(data["versions"])},\n"networks": [\n{networks}\n]}}\n'


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
