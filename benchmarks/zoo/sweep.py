"""One network after the other: the record of each, and the file that keeps them."""

from __future__ import annotations

import itertools
import json
import re
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgeon.errors import SesurgeonError, SiteError, UntraceableError, UsageError
from sesurgeon.graph import survey
from sesurgeon.models import isolated, provenance_of, random_input
from zoo.checks import Outputs, check_policies, count_kinds
from zoo.errors import CheckError
from zoo.networks import Network, build, build_empty, count_convs, settle

Record = dict[str, Any]
_SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 299, 320, 384, 448, 512)
_LARGE_SIDE = 384
_FEW_CONVS = 4
_REASONS = 5


@dataclass(frozen=True)
class Task:
    """A network, and what to do with it.

    Attributes:
        network: which one.
        convs: its convolutions, as :func:`measure` counted them; -1 where that failed.
        policies: where blocks go, one after the other.
        onnx: whether to export it too.
    """

    network: Network
    convs: int
    policies: tuple[str, ...]
    onnx: bool


def measure(networks: Sequence[Network]) -> list[Record]:
    """How large each is, without weights: convolutions and parameters."""
    warnings.simplefilter("ignore")
    records = []
    for network in networks:
        try:
            model = build_empty(network)
            size = {"convs": count_convs(model), "parameters": sum(p.numel() for p in model.parameters())}
        except Exception:  # the sweep will say why
            size = {"convs": -1, "parameters": 0}
        records.append({**asdict(network), **size})
    return records


def examine(task: Task) -> Record:
    """Everything about one network. Never raises.

    The record's ``status`` is "ok"; "attention" (all its sites have some already); "no site" (and sesurgeon says so);
    "refused" (quantised); "few" (timm's with so few convolutions that they are out of scope); or "failed".
    """
    cpu = time.process_time()
    record: Record = {**asdict(task.network), "steps": []}
    _begin("building", record)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the networks' own
            _examine(task, record)
    except CheckError as error:
        record |= {"status": "failed", "reason": str(error)}
    except SesurgeonError as error:
        record |= {"status": "failed", "reason": str(error), "error": type(error).__name__}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        record |= {"status": "failed", "reason": line, "error": "bug", "traceback": _without_paths(error)}
    _begin("end", record)
    begun = record.pop("steps")
    record["took"] = {name: round(after - start, 2) for (name, start), (_, after) in itertools.pairwise(begun)}
    record["seconds"] = round(begun[-1][1] - begun[0][1], 2)
    record["cpu"] = round(time.process_time() - cpu, 2)
    return record


def _begin(step: str, record: Record) -> None:
    """Note when a step of the work began: the last one is where a failure happened."""
    record["steps"].append((step, time.monotonic()))


def _examine(task: Task, record: Record) -> None:
    if task.network.library == "timm" and 0 <= task.convs <= _FEW_CONVS:
        record |= {"convs": task.convs, "status": "few"}
        return
    try:
        model = build(task.network)
    except UsageError as error:
        if task.network.name.startswith("quantized_"):
            record |= {"status": "refused", "reason": str(error)}
            return
        raise
    record["convs"] = count_convs(model)
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    _begin("inputs", record)
    inputs = _smallest_images(model) if task.network.classifies else None
    if inputs is not None:
        settle(model, *inputs)
    _begin("survey", record)
    try:
        found = survey(model, inputs)
    except SiteError as error:
        if isinstance(error, UntraceableError) and record["convs"]:
            raise
        record |= {"status": "no site", "reason": str(error)}
        return
    record |= {"input": _shapes(found.inputs), "sites": count_kinds(found)}
    record["attention"] = sum(site.attention is not None for site in found.sites)
    record["left_alone"] = [[alone.path, alone.reason] for alone in found.left_alone][:_REASONS]
    before = Outputs(found)
    record["finite"] = before.finite()
    _begin("surgery", record)
    record["policies"] = check_policies(found, task.policies, before, task.onnx)
    record |= _status(record["policies"])


def _status(policies: Mapping[str, Record]) -> Record:
    """Of the whole network: what its first policy (the standard one) came to."""
    first = next(iter(policies.values()))
    if any("blocks" in result for result in policies.values()):
        return {"status": "ok"}
    return {"status": first["none"], "reason": first["message"]}


def _smallest_images(model: nn.Module) -> tuple[torch.Tensor]:
    """Two images of the smallest side that the network takes in both modes; as it is configured where none does.

    One large image where one will do: two of 512 pixels take more memory than most machines have.
    """
    preprocessing = provenance_of(model).preprocessing
    channels, *configured = (3, 224, 224) if preprocessing is None else preprocessing.input_size
    for side in sorted({*_SIDES, configured[0]}):
        inputs = (random_input((1 if side >= _LARGE_SIDE else 2, channels, side, side), model),)
        if _runs(model, inputs):
            return inputs
    return (random_input((2, channels, *configured), model),)


def _runs(model: nn.Module, inputs: tuple[torch.Tensor]) -> bool:
    try:
        for training in (False, True):
            with isolated(model, training=training):
                model(*inputs)
    except Exception:  # the network's own checks
        return False
    return True


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, (list, tuple)):
        return [_shapes(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _shapes(item) for key, item in value.items()}
    return value


def _without_paths(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)[-6:])
    return re.sub(r'File "[^"]*/(?:site-packages/)?((?:[^/"]+/){0,2}[^/"]+)"', r'File "\1"', text)


def read_records(path: Path) -> dict[str, Record]:
    """The latest record of each network, by its name with the library."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {f"{line['library']}:{line['name']}": line for line in lines}


def append_record(path: Path, record: Record) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
