"""What is checked of one network."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError, SesurgeonError
from sesurgeon.export import export_onnx
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh
from sesurgeon.placement import POLICIES, Filters, Plan, plan_from_survey
from sesurgeon.surgery import blocks_of, prove_identity, remove_se
from sesurgeon.surgery.apply import insert_blocks

# Above this the copy that a user gets by default does not fit into the memory bound beside the copy that is checked.
_TOO_LARGE_TO_COPY = 400_000_000
_STEP = 0.02
_TRIES = 4


class CheckError(Exception):
    """A promise that does not hold for this network."""


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
    model = found.model
    keys = list(model.state_dict())
    large = sum(parameter.numel() for parameter in model.parameters()) > _TOO_LARGE_TO_COPY
    augmented = insert_blocks(model, plan, found, inplace=large)
    blocks = blocks_of(augmented)
    _require(len(blocks) == len(plan.entries), f"{len(blocks)} blocks for {len(plan.entries)} entries of the plan")
    proof = prove_identity(augmented, found)
    _require(proof.in_eval is True, "eval mode could not be compared")
    _require(proof.in_train is True, f"train mode could not be compared: {proof.note}")
    for training in (False, True):
        equal = same(before.of(augmented, training), before.known[training])
        _require(equal, f"other outputs in {'train' if training else 'eval'} mode on other inputs")
    _require_keys(augmented, keys, blocks)
    dead, idle = _without_gradient(augmented, blocks, before.inputs[True])
    _require(not dead, f"no gradient after two steps in {len(dead)} of {len(blocks)} blocks: {', '.join(dead[:3])}")
    report: dict[str, Any] = {"idle": idle} if idle else {}
    if onnx:
        report["onnx"] = _onnx(augmented, before)
    trained = before.of(augmented, False)
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
        in_train = getattr(found, "train_inputs", None) or found.inputs
        self.inputs = {False: _mirrored(found.inputs), True: _mirrored(in_train)}
        self.known = {
            training: self.of(found.model, training)
            for training in (False, True)
            if not (training and found.train_failure)
        }

    def of(self, model: nn.Module, training: bool) -> Any:
        """What ``model`` gives; it is in eval mode afterwards, with the buffers it had."""
        torch.manual_seed(1)
        with _buffers_kept(model), torch.no_grad():
            return model.train(training)(*fresh(self.inputs[training]))

    def finite(self) -> bool:
        """Whether the outputs are numbers: NaN would be equal to NaN."""
        leaves = tree_leaves(list(self.known.values()))
        return all(bool(leaf.isfinite().all()) for leaf in leaves if isinstance(leaf, Tensor))


def count_kinds(found: Survey) -> dict[str, int]:
    """Sites by kind, those with attention included."""
    return dict(sorted(Counter(site.kind for site in found.sites).items()))


def _mirrored(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    mirrored: tuple[Any, ...] = tree_map(
        lambda leaf: leaf.flip(-1) if isinstance(leaf, Tensor) and leaf.ndim > 2 else leaf, inputs
    )
    return mirrored


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.eval()
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


def _require_keys(augmented: nn.Module, keys: list[str], blocks: dict[str, nn.Module]) -> None:
    """The original keys in order; and new are only the blocks' own, under each name of a module that has several."""
    now = augmented.state_dict(keep_vars=True)
    known = set(keys)
    _require([key for key in now if key in known] == keys, "the original keys are not in place")
    own = {id(tensor) for block in blocks.values() for tensor in (*block.parameters(), *block.buffers())}
    foreign = [key for key, tensor in now.items() if key not in known and id(tensor) not in own]
    _require(not foreign, f"new keys that are no block's: {', '.join(foreign[:3])}")


def _without_gradient(
    augmented: nn.Module, blocks: dict[str, nn.Module], inputs: tuple[Any, ...]
) -> tuple[list[str], list[str]]:
    """Blocks some of whose parameters get no gradient in the second step, with the backbone frozen.

    All of a narrow block's hidden units may happen to be dead for these few images (2**-8 each, for 8 of them), random
    depth may leave it out, and a step may saturate its gate where random weights make large tensors: such a block gets
    other weights and a smaller step, and another try.

    Returns:
        Those that get none though the network's outputs depend on them, and those on which no output depends: the
        network's own layers before them get no gradient either (what a last block computes beside its class token).
    """
    new = [parameter for block in blocks.values() for parameter in block.parameters()]
    fresh_blocks = copy.deepcopy(blocks)
    reached: set[str] = set()
    dead: list[str] = []
    torch.manual_seed(2)
    with _buffers_kept(augmented), _frozen(augmented, new), _watched(blocks, reached):
        augmented.train()
        for attempt in range(_TRIES):
            _two_steps(augmented, inputs, new, _STEP / 10**attempt)
            dead = [path for path, block in blocks.items() if not all(map(_has_gradient, block.parameters()))]
            if not dead or attempt == _TRIES - 1:
                break
            for path, block in blocks.items():
                block.load_state_dict(fresh_blocks[path].state_dict())
                if path in dead:
                    _draw_again(block)
    return [path for path in dead if path in reached], [path for path in dead if path not in reached]


@contextmanager
def _watched(blocks: dict[str, nn.Module], reached: set[str]) -> Iterator[None]:
    """Note in ``reached`` the blocks whose output gets a gradient where it is not zero: factors could change that."""

    def watch(path: str, output: Tensor) -> None:
        if output.requires_grad:
            scaled = output.detach()
            output.register_hook(lambda gradient: reached.add(path) if bool((gradient * scaled).any()) else None)

    handles = [
        block.register_forward_hook(lambda module, args, output, path=path: watch(path, output))
        for path, block in blocks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: nn.Module, but: list[nn.Parameter]) -> Iterator[None]:
    """All parameters frozen but these; afterwards as before, for torch adds up in another order in a frozen layer."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in but:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _two_steps(augmented: nn.Module, inputs: tuple[Any, ...], new: list[nn.Parameter], size: float) -> None:
    for step in range(2):
        for parameter in new:
            if step and parameter.grad is not None:  # by sign: a loss on noise may have gradients of any size
                parameter.data.sub_(size * parameter.grad.sign())
            parameter.grad = None
        _noise_loss(augmented(*fresh(inputs))).backward()


def _has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _draw_again(block: nn.Module) -> None:
    """Weights that are there, as at first; a last layer that is still zero stays so."""
    for parameter in block.parameters():
        if parameter.ndim > 1 and bool(parameter.any()):
            bound = parameter[0].numel() ** -0.5
            nn.init.uniform_(parameter, -bound, bound)


def _noise_loss(outputs: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        raise CheckError("no output has a gradient")
    return torch.stack([(leaf * torch.randn_like(leaf)).sum() for leaf in leaves]).sum()


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
