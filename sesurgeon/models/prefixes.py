"""Where a network lies in a state dict that holds more, or has its names under a prefix."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.words import some

_SHOWN = 3
_OF_TRAINING = frozenset(
    {"criterion", "loss", "losses", "lossfn", "entropy", "metric", "metrics", "acc", "accuracy", "auroc"}
)


def without_prefix(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> Mapping[str, Tensor]:
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
    most = max(scores.values(), default=None)
    return [prefix for prefix, score in scores.items() if score == most]


def _is_of_training(name: str, prefix: str) -> bool:
    """Whether a tensor beside the network at ``prefix`` is named as one of a loss or a metric.

    The network itself does not need it. That tells the first part of the name that is not in the prefix, too.
    """
    parts, within = name.split("."), prefix.split(".")
    own = next((part for part, other in zip(parts, within, strict=False) if part != other), parts[-1])
    return not _OF_TRAINING.isdisjoint(own.lower().split("_"))
