"""The proof that surgery changed nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sesurgeon.errors import VerificationError
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh, isolated, random_states, witnesses
from sesurgeon.models.isolation import same_random_states, undisturbed
from sesurgeon.surgery.rewrite import blocks_of
from sesurgeon.words import counted, some

_HINT = "Nothing was written. Find the module at fault with --exclude, and please report it."
_DRAWN = "random numbers drawn"
_OTHERS = "Other threads are running: if one drew random numbers meanwhile, try again when it does not."


@dataclass(frozen=True)
class Proof:
    """What was compared, bit for bit, before and after surgery.

    Attributes:
        in_eval, in_train: all outputs were equal in that mode; None where it was not tried.
        note: why something was not tried; "" where all was.
    """

    in_eval: bool | None
    in_train: bool | None
    note: str = ""

    def __str__(self) -> str:
        words = {True: "bit-identical", False: "DIFFERENT", None: "not compared"}
        text = f"outputs in eval mode {words[self.in_eval]}, in train mode {words[self.in_train]}"
        return f"{text} ({self.note})" if self.note else text


@undisturbed()
def prove_identity(augmented: nn.Module, found: Survey) -> Proof:
    """Compare the outputs of ``augmented`` with those that the survey of the original saw.

    Same inputs, same random state, same buffers, in eval and in train mode; equal means ``torch.equal`` on every
    tensor of the output, and of a detector, which may find nothing, on what its parts give too; and on what the pass
    leaves behind: buffers, as running statistics, and the random state. ``augmented`` is left as it was.

    Raises:
        VerificationError: something differs, or ``augmented`` or one of its blocks does not run.
    """
    tried = [training for training, local in found.graphs.items() if local.proven]
    wrong: dict[str, list[str]] = {}
    for training in tried:
        if what := _difference(augmented, found, training):
            wrong.setdefault(what, []).append(_mode(training))
    if wrong:
        all_of_it = " and ".join(f"the {what} in {' and '.join(modes)} mode" for what, modes in wrong.items())
        raise VerificationError(
            f"After inserting the blocks {all_of_it} are not the ones before.{_blame(found, augmented)}",
            hint=_OTHERS if list(wrong) == [_DRAWN] and threading.active_count() > 1 else _HINT,
        )
    in_eval, in_train = (True if training in tried else None for training in (False, True))
    return Proof(in_eval, in_train, found.train_failure or "")


def _difference(model: nn.Module, found: Survey, training: bool) -> str:
    """What is another in a pass of ``model`` than it was in the survey's; "" where nothing is."""
    local = found.graphs[training]
    original = isolated(found.model, training=training)  # layers of it run where the copy holds functions over it
    with original, isolated(model, training=training), witnesses(model) as seen, _idle_blocks(model) as idle:
        try:
            outputs = model(*fresh(found.inputs_in(training)))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the caller's own code, with our blocks in it
            raise VerificationError(
                f"After inserting the blocks {type(model).__name__} does not run in {_mode(training)} mode: "
                f"{type(error).__name__}: {error}",
                hint=_HINT,
            ) from error
        if idle:
            raise VerificationError(
                f"In {_mode(training)} mode {counted(len(idle), 'inserted block')} never ran "
                f"({some(list(idle.values()), 3)}): {type(model).__name__} runs other layers than its own, as through "
                "a lambda over the network that it is a copy of.",
                hint="Let the network reach its layers through self, or change the network itself (in Python: "
                "inplace=True).",
            )
        if not same(outputs, local.outputs) or not same(seen, list(local.witnesses)):
            return "outputs"
        now = dict(model.named_buffers())
        if others := [name for name, before in local.buffers.items() if not same(now.get(name), before)]:
            return f"buffers ({some(others, 3)})"
        return "" if same_random_states(random_states(), local.random_states) else _DRAWN


@contextlib.contextmanager
def _idle_blocks(model: nn.Module) -> Iterator[dict[nn.Module, str]]:
    """The inserted blocks and their paths, but for those that ran meanwhile."""
    idle = {block: path for path, block in blocks_of(model).items()}

    def ran(block: nn.Module, _arguments: Any) -> None:
        idle.pop(block, None)

    hooks = [block.register_forward_pre_hook(ran) for block in idle]
    try:
        yield idle
    finally:
        for hook in hooks:
            hook.remove()


def _mode(training: bool) -> str:
    return "train" if training else "eval"


def _blame(found: Survey, augmented: nn.Module) -> str:
    """Whether the network is to blame, because it gives other outputs each time it runs."""
    if found.model is augmented:  # changed in place: the network as it was cannot be asked
        return ""
    for training, local in found.graphs.items():
        if local.proven and _difference(found.model, found, training):
            return " The network itself gives other outputs each time it runs, under the same random state."
    return ""
