"""The proof that surgery changed nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sesurgeon.errors import VerificationError
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh, isolated, witnesses


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
    tensor of the output, and of a detector, which may find nothing, on what its parts give too. ``augmented`` is left
    as it was.

    Raises:
        VerificationError: some output differs.
    """
    results: dict[bool, bool | None] = {False: None, True: None}
    for training, local in found.graphs.items():
        if local.proven:
            results[training] = _gives_the_same(augmented, found, training)
    if False in results.values():
        modes = " and ".join("train" if training else "eval" for training, equal in results.items() if equal is False)
        raise VerificationError(
            f"After inserting the blocks the outputs in {modes} mode are not the ones before.{_blame(found)}",
            hint="Nothing was written. Find the module at fault with --exclude, and please report it.",
        )
    return Proof(results[False], results[True], found.train_failure or "")


def _gives_the_same(model: nn.Module, found: Survey, training: bool) -> bool:
    local = found.graphs[training]
    with isolated(model, training=training), witnesses(model) as seen:
        outputs = model(*fresh(found.inputs_in(training)))
    return same(outputs, local.outputs) and same(seen, list(local.witnesses))


def _blame(found: Survey) -> str:
    """Whether the network is to blame, because it gives other outputs each time it runs."""
    for training, local in found.graphs.items():
        if local.proven and not _gives_the_same(found.model, found, training):
            return " The network itself gives other outputs each time it runs, under the same random state."
    return ""
