"""The proof that surgery changed nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sesurgeon.errors import VerificationError
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh, isolated, random_states, witnesses
from sesurgeon.models.isolation import same_random_states
from sesurgeon.words import some

_HINT = "Nothing was written. Find the module at fault with --exclude, and please report it."


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


def prove_identity(augmented: nn.Module, found: Survey) -> Proof:
    """Compare the outputs of ``augmented`` with those that the survey of the original saw.

    Same inputs, same random state, same buffers, in eval and in train mode; equal means ``torch.equal`` on every
    tensor of the output, and of a detector, which may find nothing, on what its parts give too; and on what the pass
    leaves behind: buffers, as running statistics, and the random state. ``augmented`` is left as it was.

    Raises:
        VerificationError: something differs, or ``augmented`` does not run.
    """
    tried = [training for training, local in found.graphs.items() if local.proven]
    wrong: dict[str, list[str]] = {}
    for training in tried:
        if what := _difference(augmented, found, training):
            wrong.setdefault(what, []).append(_mode(training))
    if wrong:
        all_of_it = " and ".join(f"the {what} in {' and '.join(modes)} mode" for what, modes in wrong.items())
        raise VerificationError(
            f"After inserting the blocks {all_of_it} are not the ones before.{_blame(found, augmented)}", hint=_HINT
        )
    in_eval, in_train = (True if training in tried else None for training in (False, True))
    return Proof(in_eval, in_train, found.train_failure or "")


def _difference(model: nn.Module, found: Survey, training: bool) -> str:
    """What is another in a pass of ``model`` than it was in the survey's; "" where nothing is."""
    local = found.graphs[training]
    with isolated(model, training=training), witnesses(model) as seen:
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
        if not same(outputs, local.outputs) or not same(seen, list(local.witnesses)):
            return "outputs"
        now = dict(model.named_buffers())
        if others := [name for name, before in local.buffers.items() if not same(now.get(name), before)]:
            return f"buffers ({some(others, 3)})"
        return "" if same_random_states(random_states(), local.random_states) else "random numbers drawn"


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
