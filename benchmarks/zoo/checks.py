"""What is checked of one network."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sesurgeon.blocks import BlockConfig, SqueezeExcite
from sesurgeon.errors import NoSiteError, SesurgeonError
from sesurgeon.export import export_onnx
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh
from sesurgeon.placement import POLICIES, Filters, Plan, plan_from_survey
from sesurgeon.surgery import blocks_of, prove_identity, remove_se
from sesurgeon.surgery.apply import insert_blocks
from zoo.errors import CheckError
from zoo.gradients import Blocks, buffers_kept, temper, without_gradient

# Above this the copy that a user gets by default does not fit into the memory bound beside the copy that is checked.
_TOO_LARGE_TO_COPY = 400_000_000


def check_policies(found: Survey, policies: Sequence[str], before: Outputs, onnx: bool) -> dict[str, dict[str, Any]]:
    """Insert the blocks of all ``policies`` together, hold the result to every promise, and take them out again.

    Together, because the promises are about every block, and half of the time is saved.

    Returns:
        by policy ``blocks``: how many; or ``none`` ("attention", "no site") and the message. For the first that has
        blocks also ``idle``: blocks on which no output depends, and ``onnx``.

    Raises:
        CheckError: a promise is broken.
        SesurgeonError: what the user would see.
    """
    reports = {policy: _planned(found, policy) for policy in policies}
    having = [policy for policy, report in reports.items() if "blocks" in report]
    if having:
        plan = plan_from_survey(found, having, BlockConfig(), Filters())
        reports[having[0]] |= _check_plan(found, plan, before, onnx)
    return reports


def _planned(found: Survey, policy: str) -> dict[str, Any]:
    sites = POLICIES[policy](found.sites)
    try:
        return {"blocks": len(plan_from_survey(found, (policy,), BlockConfig(), Filters()).entries)}
    except NoSiteError as error:
        gated = bool(sites) and all(site.attention is not None for site in sites)
        return {"none": "attention" if gated else "no site", "message": str(error)}


def _check_plan(found: Survey, plan: Plan, before: Outputs, onnx: bool) -> dict[str, Any]:
    _require(before.finite(), "the untouched network's outputs are not finite: NaN would equal NaN")
    model = found.model
    keys = list(model.state_dict())
    large = sum(parameter.numel() for parameter in model.parameters()) > _TOO_LARGE_TO_COPY
    augmented = insert_blocks(model, plan, found, inplace=large)
    blocks = {path: block for path, block in blocks_of(augmented).items() if isinstance(block, SqueezeExcite)}
    _require(len(blocks) == len(plan.entries), f"{len(blocks)} blocks for {len(plan.entries)} entries of the plan")
    proof = prove_identity(augmented, found)
    _require(proof.in_eval is True, "eval mode could not be compared")
    _require(proof.in_train is True, f"train mode could not be compared: {proof.note}")
    for training in (False, True):
        equal = same(before.of(augmented, training), before.known[training])
        _require(equal, f"other outputs in {'train' if training else 'eval'} mode on other inputs")
    _require_keys(augmented, keys, blocks)
    dead, idle = without_gradient(augmented, blocks, before.inputs[True])
    _require(
        not dead, f"no finite gradient after two steps in {len(dead)} of {len(blocks)} blocks: {', '.join(dead[:3])}"
    )
    temper(augmented, blocks, before.inputs[False])
    report: dict[str, Any] = {"idle": idle} if idle else {}
    if onnx:
        report["onnx"] = _onnx(augmented, before)
    trained = before.of(augmented, False)
    _require(_finite(trained), "the outputs are not finite any more after two steps")
    copied = copy.deepcopy(augmented)
    _require(same(before.of(copied, False), trained), "a deep copy gives other outputs")
    del copied
    removed = remove_se(augmented, inplace=True)
    _require(list(removed.state_dict()) == keys, "other keys after removal")
    _require(not blocks_of(removed), "blocks are left after removal")
    _require(same(before.of(removed, False), before.known[False]), "other outputs after removal")
    return report


class Outputs:
    """Other inputs than the survey's, and what the untouched network gives for them under one random state.

    Args:
        found: of the network.
    """

    def __init__(self, found: Survey) -> None:
        self.inputs = {training: _mirrored(found.inputs_in(training)) for training in (False, True)}
        self.known = {
            training: self.of(found.model, training)
            for training in (False, True)
            if not (training and found.train_failure)
        }

    def of(self, model: nn.Module, training: bool) -> Any:
        """What ``model`` gives; it is in eval mode afterwards, with the buffers it had."""
        torch.manual_seed(1)
        with buffers_kept(model), torch.no_grad():
            return model.train(training)(*fresh(self.inputs[training]))

    def finite(self) -> bool:
        """Whether the outputs are numbers: NaN would be equal to NaN."""
        return _finite(list(self.known.values()))


def count_kinds(found: Survey) -> dict[str, int]:
    """Sites by kind, those with attention included."""
    return dict(sorted(Counter(site.kind for site in found.sites).items()))


def _mirrored(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    mirrored: tuple[Any, ...] = tree_map(
        lambda leaf: leaf.flip(-1) if isinstance(leaf, Tensor) and leaf.ndim > 2 else leaf, inputs
    )
    return mirrored


def _finite(outputs: Any) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


def _require_keys(augmented: nn.Module, keys: list[str], blocks: Blocks) -> None:
    """The original keys in order; and new are only the blocks' own, under each name of a module that has several."""
    now = augmented.state_dict(keep_vars=True)
    known = set(keys)
    _require([key for key in now if key in known] == keys, "the original keys are not in place")
    own = {id(tensor) for block in blocks.values() for tensor in (*block.parameters(), *block.buffers())}
    foreign = [key for key, tensor in now.items() if key not in known and id(tensor) not in own]
    _require(not foreign, f"new keys that are no block's: {', '.join(foreign[:3])}")


def _onnx(augmented: nn.Module, before: Outputs) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export_onnx(augmented, Path(folder) / "model.onnx", example_inputs=before.inputs[False])
        except SesurgeonError as error:
            try:
                export_onnx(remove_se(augmented), Path(folder) / "model.onnx", example_inputs=before.inputs[False])
            except SesurgeonError as without:
                return {"same_without_blocks": True, "message": str(without)}
            raise CheckError(f"ONNX: {error}") from error
    parity = report.parity
    return {"max_rel": None if parity is None else parity.max_rel}
