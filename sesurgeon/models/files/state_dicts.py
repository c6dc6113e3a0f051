"""Weights in a file: a state dict, bare or somewhere in a training checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.errors import UnreadableFileError
from sesurgeon.models.files.quantised import refuse_quantised_state

# Where training scripts keep the model, in the order in which we look. Trained weights come before their
# average.
_PLACES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net_state_dict",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
)
_DEPTH = 3


@dataclass(frozen=True)
class Found:
    """What is of use in a file.

    Attributes:
        weights: tensors by name, or a whole model.
        place: the path of keys that led there, as ``model.state_dict``; "" when the file holds nothing else.
    """

    weights: Mapping[str, Tensor] | nn.Module
    place: str


def find_weights(content: object, origin: str) -> Found:
    """The state dict or the model in what was read from a file, without the prefixes of wrappers.

    Args:
        content: as :func:`sesurgeon.models.files.pickles.read` gives it.
        origin: the file's name, for messages.

    Raises:
        UnreadableFileError: there is neither, or the weights are quantised.
    """
    found = _search(content, (), _DEPTH)
    if found is None:
        raise UnreadableFileError(
            f"{origin} holds no model and no weights, but {_described(content)}.",
            hint=f"Weights are looked for at the top and under {', '.join(_PLACES)}.",
        )
    if isinstance(found.weights, nn.Module):
        return found
    refuse_quantised_state(found.weights, origin)
    return Found(_without_wrapper_prefixes(found.weights, origin), found.place)


def _without_wrapper_prefixes(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Names as the bare model has them: no ``module.`` (DDP, EMA), no ``_orig_mod.`` (``torch.compile``).

    Raises:
        UnreadableFileError: two names become one.
    """
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in state}
    names.pop("n_averaged", None)  # the counter of torch.optim.swa_utils.AveragedModel
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: name.removeprefix("module.") for old, name in names.items()}
    given: dict[str, str] = {}
    for old, name in names.items():
        if name in given:
            raise UnreadableFileError(
                f"{origin} holds two tensors for {name}: {given[name]} and {old}.",
                hint="Save the model's weights alone.",
            )
        given[name] = old
    return {name: state[old] for name, old in given.items()}


def _search(content: object, path: tuple[str, ...], depth: int) -> Found | None:
    if isinstance(content, nn.Module) or _is_state_dict(content):
        return Found(content, ".".join(path))  # type: ignore[arg-type]  # narrowed by _is_state_dict
    if not isinstance(content, Mapping) or depth == 0:
        return None
    inside = (_search(content[place], (*path, place), depth - 1) for place in _PLACES if place in content)
    return next((found for found in inside if found is not None), None)


def _is_state_dict(content: object) -> bool:
    """Names of tensors; extra state and the packed weights of quantised layers may be other things."""
    return (
        isinstance(content, Mapping)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(
            isinstance(name, str)
            and (isinstance(value, Tensor) or name.endswith("_extra_state") or "_packed_params" in name)
            for name, value in content.items()
        )
    )


def _described(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with the keys {', '.join(repr(key) for key in list(content)[:10])}" if content else "{}"
    if isinstance(content, torch.Tensor):
        return f"a tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"
