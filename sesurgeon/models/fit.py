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
_OF_TRAINING = frozenset(
    {"criterion", "loss", "losses", "lossfn", "entropy", "metric", "metrics", "acc", "accuracy", "auroc"}
)


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
    state = _with_names_of(model, state, origin)
    set_num_classes(model, _classes_in(state, model) if num_classes is None else num_classes)
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


def _with_names_of(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> Mapping[str, Tensor]:
    """What ``state`` has of the model, without a prefix that the model's own names do not have.

    With ``module.`` where that is a child of the model: :func:`.state_dicts.find_weights` took it off as DDP's.

    Raises:
        UsageError: the model is there under several prefixes, such as the weights and their moving average; or beside
            it are weights that may belong to the network.
    """
    own = model.state_dict()
    if own.keys() == {f"module.{name}" for name in state}:
        return {f"module.{name}": tensor for name, tensor in state.items()}
    prefixes = [] if state.keys() & own.keys() else _prefixes(own, state)
    if not prefixes:
        return state
    prefix = prefixes[0]
    tensors = [name for name, value in state.items() if isinstance(value, Tensor)]
    beside = [name for name in tensors if not name.startswith(prefix) and not _is_of_training(name, prefix)]
    within = " and ".join(one.rstrip(".") for one in prefixes)
    said = f"{origin} holds {type(model).__name__} under {within}"
    if len(prefixes) > 1 or beside:
        raise UsageError(
            f"{said}: which is meant?" if len(prefixes) > 1 else f"{said}, and {some(beside, _SHOWN)} beside it.",
            hint="Give a file of the network's weights alone, without the prefix in their names, as its state_dict() "
            "gives them.",
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _prefixes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Those under which most names of a model lie, of these the ones where most shapes are its own.

    None where that are less than half of the names. A head may be of other shapes, so names come first.
    """
    found: dict[str, list[bool]] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        for number in range(1, len(parts)):
            inner = own.get(".".join(parts[number:]))
            if inner is not None:
                alike = getattr(inner, "shape", None) == getattr(tensor, "shape", None)
                found.setdefault(".".join(parts[:number]) + ".", []).append(alike)
    scores = {prefix: (len(alike), sum(alike)) for prefix, alike in found.items() if 2 * len(alike) >= len(own)}
    return [prefix for prefix, score in scores.items() if score == max(scores.values())]


def _is_of_training(name: str, prefix: str) -> bool:
    """Whether a tensor beside the network at ``prefix`` is named as one of a loss or a metric.

    The network itself does not need it. That tells the first part of the name that is not in the prefix, too.
    """
    parts, within = name.split("."), prefix.split(".")
    own = next((part for part, other in zip(parts, within, strict=False) if part != other), parts[-1])
    return not _OF_TRAINING.isdisjoint(own.lower().split("_"))


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
