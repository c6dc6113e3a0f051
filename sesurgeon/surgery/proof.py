"""The proof that surgery changed nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.errors import VerificationError
from sesurgeon.graph import Survey, same
from sesurgeon.models import copy_of, fresh, isolated, witnesses
from sesurgeon.models.isolation import undisturbed
from sesurgeon.randomness import random_states, same_random_states
from sesurgeon.surgery.rewrite import blocks_of
from sesurgeon.words import counted, mode_name, some

_HINT = "Nothing was written. Find the module at fault with --exclude, and please report it."
_DRAWN = "random numbers drawn"
_OTHERS = "Other threads are running: if one drew random numbers meanwhile, try again when it does not."


@dataclass(frozen=True)
class Proof:
    """What was compared, bit for bit, before and after surgery.

    Attributes:
        in_eval, in_train: all outputs were equal in that mode; None where it was not tried. Where they differ there is
            no proof, but an error.
        note: why something was not tried; "" where everything was.
    """

    in_eval: Literal[True] | None
    in_train: Literal[True] | None
    note: str = ""

    @classmethod
    def of(cls, tried: Collection[bool], blind: Container[bool], found: Survey) -> Proof:
        """That all outputs were equal in the modes (``training``) that were ``tried``.

        Args:
            tried: these modes.
            blind: those of them in which all outputs are NaN or infinite, so that equality proves nothing.
            found: of the network.

        Raises:
            VerificationError: eval mode is among the blind ones.
        """
        if False in blind:
            raise VerificationError(
                f"All outputs of {type(found.model).__name__} are NaN or infinite, even as it was given: that they "
                "stay equal would prove nothing.",
                hint="Look for weights that are not finite. If the example inputs are to blame, give others (in "
                "Python: example_inputs=).",
            )
        proved = {mode for mode in tried if mode not in blind}
        note = "all outputs in train mode are NaN or infinite" if True in blind else found.train_failure
        return cls(True if False in proved else None, True if True in proved else None, note or "")

    def __str__(self) -> str:
        in_eval, in_train = ("bit-identical" if equal else "not compared" for equal in (self.in_eval, self.in_train))
        text = f"outputs in eval mode {in_eval}, in train mode {in_train}"
        return f"{text} ({self.note})" if self.note else text


@undisturbed()
def prove_identity(augmented: nn.Module, found: Survey) -> Proof:
    """Compare the outputs of ``augmented`` with those that the survey of the original saw.

    Same inputs, same random state, same buffers, in eval and in train mode; equal means ``torch.equal`` on every
    tensor of the output (of a detector, which may find nothing, also on what its parts give), and on what the pass
    leaves behind: buffers such as running statistics, and the random state. ``augmented`` is left as it was.

    Raises:
        VerificationError: something differs, or ``augmented`` or one of its blocks does not run; or equality would
            prove nothing, as no output of the original is finite. In train mode alone, that is noted in the proof.
    """
    tried = [training for training, local in found.graphs.items() if local.failure is None]
    wrong: dict[str, list[str]] = {}
    for training in tried:
        try:
            what = _difference(augmented, found, training)
        except VerificationError as error:
            blame = _blame(found, augmented)
            if not blame:
                raise
            raise VerificationError(f"{error.message.removesuffix('.')}.{blame}") from error
        if what:
            wrong.setdefault(what, []).append(mode_name(training))
    if wrong:
        all_of_it = " and ".join(f"the {what} in {' and '.join(modes)} mode" for what, modes in wrong.items())
        blame = _blame(found, augmented)
        threads = list(wrong) == [_DRAWN] and threading.active_count() > 1
        raise VerificationError(
            f"After inserting the blocks {all_of_it} are not the ones before.{blame}",
            hint=_OTHERS if threads else None if blame else _HINT,
        )
    blind = [
        training for training in tried if is_blind((found.graphs[training].outputs, *found.graphs[training].witnesses))
    ]
    return Proof.of(tried, blind, found)


def is_blind(given: Any) -> bool:
    """Whether all numbers that a network has given are NaN or infinite: those of any other network might be, too."""
    leaves = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    numbers = [leaf for leaf in leaves if _may_be_nan(leaf) and leaf.numel()]
    return bool(numbers) and not any(_finite(leaf).any() for leaf in numbers)


def _may_be_nan(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()


def _finite(values: Tensor) -> Tensor:
    return (values.float() if values.element_size() == 1 else values).isfinite()  # torch cannot tell of float8


def _difference(model: nn.Module, found: Survey, training: bool) -> str:
    """What differs between a pass of ``model`` and that of the survey; "" where nothing does."""
    local = found.graphs[training]
    original = isolated(found.model, training=training)  # the copy may hold functions that run layers of the original
    with original, isolated(model, training=training), witnesses(model) as seen, _idle_blocks(model) as idle:
        try:
            outputs = model(*fresh(found.inputs_in(training)))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the caller's own code, with our blocks in it
            raise VerificationError(
                f"After inserting the blocks {type(model).__name__} does not run in {mode_name(training)} mode: "
                f"{type(error).__name__}: {error}",
                hint=_HINT,
            ) from error
        if idle:
            raise VerificationError(
                f"In {mode_name(training)} mode {counted(len(idle), 'inserted block')} never ran "
                f"({some(list(idle.values()), 3)}): {type(model).__name__} runs layers that are not its own, for "
                "example through a lambda over the network that it is a copy of.",
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
    """The inserted blocks and their paths, without those that have run meanwhile."""
    idle = {block: path for path, block in blocks_of(model).items()}

    def ran(block: nn.Module, _arguments: Any) -> None:
        idle.pop(block, None)

    hooks = [block.register_forward_pre_hook(ran) for block in idle]
    try:
        yield idle
    finally:
        for hook in hooks:
            hook.remove()


def _blame(found: Survey, augmented: nn.Module) -> str:
    """A sentence where the network itself is to blame: it gives other outputs each time it runs, or in a deep copy."""
    if found.model is augmented:  # changed in place: the network as it was is gone
        return ""
    if _differs(found.model, found):
        return " The network itself gives other outputs each time it runs, under the same random state."
    if _differs(copy_of(found.model), found):
        return (
            " A deep copy of the network does not compute the same, even without blocks: do hooks or functions in it "
            "refer to the original? Insert the blocks in place (in Python: inplace=True)."
        )
    return ""


def _differs(model: nn.Module, found: Survey) -> bool:
    tried = [training for training, local in found.graphs.items() if local.failure is None]
    try:
        return any(_difference(model, found, training) for training in tried)
    except VerificationError:
        return True
