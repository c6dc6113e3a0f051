"""An architecture with the weights of a state dict in it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.models.adopt import adopt
from sesurgeon.models.build import build
from sesurgeon.models.detection import detects
from sesurgeon.models.head import head_of, set_num_classes
from sesurgeon.models.sources.guess import guess_architectures
from sesurgeon.models.sources.source import Source
from sesurgeon.models.sources.torchvision_models import INCEPTIONS
from sesurgeon.words import some

_SHOWN = 3
_OF_INCEPTION = tuple(f"torchvision:{name}" for name in INCEPTIONS)


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
        state: tensors by name, without prefixes of wrappers; one prefix common to all (``model.``, as
            Lightning writes) is taken off where the architecture has none.
        num_classes: outputs of the classifier; by default those of the classifier in ``state``.
        origin: the file's name, for messages.

    Raises:
        UsageError: the weights are not of this architecture: which names and shapes disagree, and what fits
            better; or names and shapes agree with networks that compute something else.
    """
    _check_input_is_described(source)
    model = build(_with_auxiliary_heads_as_in(state, source))
    state = _with_names_of(model, state)
    set_num_classes(model, _classes_in(state, model) if num_classes is None else num_classes)
    if disagreements := _disagreements(state, model):
        raise UsageError(
            f"The weights in {origin} are not those of {source}: {'; '.join(disagreements)}.",
            hint=_hint(state, model, source),
        )
    _check_norms_were_trained(model, state, source)
    versioned = OrderedDict(adopt(model, state))
    # renaming loses the versions of the modules, without which torchvision's MNASNet does not load
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)  # names were compared above
    return model


def _hint(state: Mapping[str, Tensor], model: nn.Module, source: Source) -> str:
    hints, others, close = [], state.keys() - model.state_dict().keys(), guess_architectures(state)
    if close and str(source) not in close:
        hints.append(f"They look like {' or '.join(close)}.")
    if others and all(re.search(r"(^|\.)se\d*\.", name) for name in others):
        hints.append(
            "If sesurgeon inserted those blocks: load the network without them, insert them as they were "
            "(sesurgeon.apply_plan, or add_se with the same settings), and give it these weights by load_state_dict. "
            "sesurgeon.save keeps all in one file."
        )
    return " ".join(hints) or "Give the architecture that they come from by --arch, its arguments by --model-kwargs."


def _with_auxiliary_heads_as_in(state: Mapping[str, Tensor], source: Source) -> Source:
    """torchvision's own GoogLeNet weights come without the auxiliary heads that are there by default."""
    has_some = any(name.lower().startswith(("aux", "module.aux")) for name in state)
    if str(source) not in _OF_INCEPTION or has_some:
        return source
    return replace(source, kwargs={"aux_logits": False, **source.kwargs})


def _check_input_is_described(source: Source) -> None:
    """torchvision's own GoogLeNet weights want images in another range, and no tensor says which weights they are."""
    if str(source) in _OF_INCEPTION and "transform_input" not in source.kwargs:
        raise UsageError(
            f"Weights do not tell whether their {source} was built with transform_input, which changes its input.",
            hint="It was where they began as torchvision's (weights=…): say --model-kwargs transform_input=true, "
            "or =false.",
        )


def _check_norms_were_trained(model: nn.Module, state: Mapping[str, Tensor], source: Source) -> None:
    """torchvision builds detectors whose weights, or whose backbone's, are given with frozen norms.

    These have the same names but for the counters, learn nothing, and those of its own weights have another epsilon.
    """
    counters = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    frozen = bool(counters) and not any(name in state for name in counters)
    if frozen and detects(model):
        raise UsageError(
            f"These are weights of a {source} with frozen BatchNorms, which is not what that name builds.",
            hint="Save it as a whole: torch.save(model, 'model.pt'). Published weights come by --pretrained.",
        )


def _with_names_of(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without a prefix that is common to all and the model's names do not have; with ``module.`` where it is a child.

    :func:`.state_dicts.find_weights` took that one off, as DDP's.
    """
    own = model.state_dict().keys()
    if own == {f"module.{name}" for name in state}:
        return {f"module.{name}": tensor for name, tensor in state.items()}
    first_parts = {name.partition(".")[0] for name in state}
    if len(first_parts) != 1 or state.keys() & own:
        return state
    prefix = f"{first_parts.pop()}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


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


def _disagreements(state: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    own = model.state_dict()
    # counters, which weights from before PyTorch 0.4.1 do not have and which do not matter for the outputs
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    other_shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and getattr(state[name], "shape", None) != getattr(own[name], "shape", None)
    ]
    counted = (("missing", missing), ("unexpected", unexpected), ("of another shape", other_shapes))
    return [f"{len(names)} {what} ({some(names, _SHOWN)})" for what, names in counted if names]
