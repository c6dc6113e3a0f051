"""An architecture with the weights of a state dict in it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.models.adopt import adopt
from sesurgeon.models.build import build
from sesurgeon.models.head import head_of, heads_if_any, set_num_classes
from sesurgeon.models.sources.guess import guess_architectures, looks_like
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
            Lightning's files, what is beside it there (the weights of a loss) is left out.
        num_classes: outputs of the classifier; by default those of the classifier in ``state``.
        origin: the file's name, for messages.

    Raises:
        UsageError: the weights are not of this architecture: which names and shapes disagree, and what fits
            better; or names and shapes agree with networks that compute something else.
    """
    check_input_is_described(source)
    model = build(with_auxiliary_heads_as_in(state, source))
    state = _with_names_of(model, state, origin)
    set_num_classes(model, _classes_in(state, model) if num_classes is None else num_classes)
    if disagreements := _disagreements(state, model):
        counted = [f"{len(names)} {what} ({some(shown, _SHOWN)})" for what, (names, shown) in disagreements.items()]
        raise UsageError(
            f"The weights in {origin} are not those of {source}: {'; '.join(counted)}.",
            hint=_hint(state, model, source, {name for names, _ in disagreements.values() for name in names}),
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
    elif str(source) not in guess_architectures(state) and (like := looks_like(state)):
        hints.append(like)
    if others and all(re.search(r"(^|\.)se\d*\.", name) for name in others):
        hints.append(
            "If sesurgeon inserted those blocks: load the network without them, insert them as they were "
            "(sesurgeon.apply_plan, or add_se with the same settings), and give it these weights by load_state_dict. "
            "sesurgeon.save keeps all in one file."
        )
    return " ".join(hints) or "Give the architecture that they come from by --arch, its arguments by --model-kwargs."


def _with_names_of(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> Mapping[str, Tensor]:
    """What ``state`` has of the model, without a prefix that the model's own names do not have.

    With ``module.`` where that is a child of the model: :func:`.state_dicts.find_weights` took it off as DDP's.

    Raises:
        UsageError: all of the model is there under several prefixes, such as the weights and their moving average.
    """
    own = model.state_dict().keys()
    if own == {f"module.{name}" for name in state}:
        return {f"module.{name}": tensor for name, tensor in state.items()}
    if state.keys() & own:
        return state
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    prefixes = [name.removesuffix(needed[0]) for name in state if needed and name.endswith(f".{needed[0]}")]
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in state for name in needed)]
    if len(whole) > 1:
        raise UsageError(
            f"{origin} holds the network more than once, under {' and '.join(prefix.rstrip('.') for prefix in whole)}.",
            hint=f"Keep one of them, in Python: torch.save({{name.removeprefix('{whole[0]}'): tensor for name, tensor "
            f"in weights.items() if name.startswith('{whole[0]}')}}, 'weights.pt')",
        )
    first_parts = {name.partition(".")[0] for name in state}
    common = [f"{first_parts.pop()}."] if len(first_parts) == 1 else []  # of a network of another head, or of another
    for prefix in whole or common:
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return state


def _classes_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Outputs of the classifier in ``state``; None where it has none that would fit the rest of ``model``."""
    try:
        path = head_of(model)
    except UsageError:
        return None
    weight, expected = state.get(f"{path}.weight"), model.get_submodule(path).weight
    if weight is None or not isinstance(expected, Tensor) or weight.shape[1:] != expected.shape[1:]:
        return None
    return int(weight.shape[0])


def _disagreements(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, tuple[list[str], list[str]]]:
    """What is wrong -> the names of which that is so, and these as they are shown."""
    own = model.state_dict()
    # counters, which weights from before PyTorch 0.4.1 do not have and which do not matter for the outputs
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    other_shapes = {
        name: f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and getattr(state[name], "shape", None) != getattr(own[name], "shape", None)
    }
    found = {
        "missing": (missing, missing),
        "unexpected": (unexpected, unexpected),
        "of another shape": (list(other_shapes), list(other_shapes.values())),
    }
    return {what: names for what, names in found.items() if names[0]}
