"""An architecture with the weights of a state dict in it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.models.adopt import adopt
from sesurgeon.models.build import build
from sesurgeon.models.head import head_of, heads_if_any
from sesurgeon.models.new_head import set_num_classes
from sesurgeon.models.prefixes import without_prefix
from sesurgeon.models.sources.guess import looks_like
from sesurgeon.models.sources.source import Source
from sesurgeon.models.sources.torchvision_models import (
    check_input_is_described,
    check_norms_were_trained,
    with_auxiliary_heads_as_in,
)
from sesurgeon.paths import is_within_any
from sesurgeon.words import some

_SHOWN = 3


def fit(
    source: Source,
    state: Mapping[str, Tensor],
    *,
    num_classes: int | None = None,
    origin: str = "the state dict",
) -> nn.Module:
    """Build ``source`` and give it the weights of ``state``; every name and shape must agree. In eval mode.

    The tensors of ``state`` become the model's where they can, and are no longer the caller's to use.

    Args:
        source: the architecture.
        state: tensors by name, without prefixes of wrappers. Where the network lies under a prefix, as ``model.`` in
            Lightning's files, the weights of losses and metrics beside it are left out.
        num_classes: outputs of the classifier; by default those of the classifier in ``state``.
        origin: the file's name, for messages.

    Raises:
        UsageError: the weights are not of this architecture: which names and shapes disagree, and what fits
            better; or names and shapes agree with networks that compute something else.
    """
    check_input_is_described(source)
    model = build(with_auxiliary_heads_as_in(state, source))
    state = without_prefix(model, state, origin)
    set_num_classes(model, outputs_in(state, model) if num_classes is None else num_classes)
    if disagreements := _disagreements(state, model):
        counted = [f"{len(shown)} {what} ({some([*shown.values()], _SHOWN)})" for what, shown in disagreements.items()]
        raise UsageError(
            f"The weights in {origin} are not those of {source}: {'; '.join(counted)}.",
            hint=_hint(state, model, source, [name for shown in disagreements.values() for name in shown]),
        )
    check_norms_were_trained(model, state, source)
    versioned = OrderedDict(adopt(model, state))
    # renaming loses the versions of the modules, without which torchvision's MNASNet does not load
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)  # names were compared above
    return model


def _hint(state: Mapping[str, Tensor], model: nn.Module, source: Source, differing: Collection[str]) -> str:
    hints, others = [], state.keys() - model.state_dict().keys()
    heads = heads_if_any(model)
    if all(is_within_any(name, heads) for name in differing):
        hints.append(
            f"Only the head ({some(heads, _SHOWN)}) is another: build the network with the one that it has in a "
            "function of your own, --arch factory:pkg.mod:function."
        )
    elif like := looks_like(state, but=str(source)):
        hints.append(like)
    if others and all(re.search(r"(^|\.)se\d*\.", name) for name in others):
        hints.append(
            "If sesurgeon inserted those blocks: load the network without them, insert them as they were "
            "(sesurgeon.apply_plan, or add_se with the same settings), and give it these weights by load_state_dict. "
            "sesurgeon.save keeps all in one file."
        )
    return " ".join(hints) or "Give the architecture that they come from by --arch, its arguments by --model-kwargs."


def outputs_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Outputs of the classifier in ``state``; None where it has none that would fit the rest of ``model``.

    Args:
        state: weights of such a network, perhaps with another head.
        model: the network.
    """
    try:
        path = head_of(model)
    except UsageError:
        return None
    weight, expected = state.get(f"{path}.weight"), model.get_submodule(path).weight
    if weight is None or not isinstance(expected, Tensor) or weight.shape[1:] != expected.shape[1:]:
        return None
    return int(weight.shape[0])


def _disagreements(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, dict[str, str]]:
    """What is wrong -> the names of which that is so, and how each is shown."""
    own = model.state_dict()
    # counters, which weights from before PyTorch 0.4.1 do not have and which do not matter for the outputs
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    found = {
        "missing": {name: name for name in missing},
        "unexpected": {name: name for name in state if name not in own},
        "of another shape": {
            name: f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and getattr(state[name], "shape", None) != getattr(own[name], "shape", None)
        },
    }
    return {what: names for what, names in found.items() if names}
