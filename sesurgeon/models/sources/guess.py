"""Which architecture do these weights belong to? What the file says, or a guess by names and shapes; for messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

_RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
_DENSENETS: dict[tuple[int, ...], str] = {
    (6, 12, 24, 16): "121",
    (6, 12, 36, 24): "161",
    (6, 12, 32, 32): "169",
    (6, 12, 48, 32): "201",
}
_VGGS = {8: "vgg11", 10: "vgg13", 13: "vgg16", 16: "vgg19"}

# a name that only this family has -> one of the family
_TELLING_NAMES = (
    ("features.18.0.weight", "torchvision:mobilenet_v2"),
    ("Mixed_7c.branch_pool.conv.weight", "torchvision:inception_v3"),
    ("inception5b.branch4.1.conv.weight", "torchvision:googlenet"),
    ("stage4.3.branch2.0.weight", "torchvision:shufflenet_v2_x1_0"),
    ("features.7.2.block.5.weight", "torchvision:convnext_tiny"),
    ("features.8.0.weight", "torchvision:efficientnet_b0"),
    ("features.12.squeeze.weight", "torchvision:squeezenet1_0"),
    ("stages.3.blocks.2.conv_dw.weight", "timm:convnext_tiny"),
    ("conv_stem.weight", "timm:efficientnet_b0"),
)


def guess_architectures(state: Mapping[str, Any]) -> list[str]:
    """Names as ``--arch`` takes them; empty where nothing is recognised.

    The family is recognised by its names of parameters; within the ResNets, DenseNets and VGGs also the
    member.
    """
    if "layer4.0.conv1.weight" in state and "conv1.weight" in state:
        return _resnet(state)
    if "features.denseblock4.denselayer1.conv1.weight" in state:
        depths = tuple(_count(state, rf"features\.denseblock{block}\.denselayer(\d+)\.") for block in range(1, 5))
        return _in_both(f"densenet{_DENSENETS[depths]}") if depths in _DENSENETS else []
    if "classifier.6.weight" in state and "features.0.weight" in state:
        convolutions = sum(name.startswith("features.") and value.ndim == 4 for name, value in state.items())
        with_norm = "_bn" if any(name.endswith("running_mean") for name in state) else ""
        return [f"torchvision:{_VGGS[convolutions]}{with_norm}"] if convolutions in _VGGS else []
    return next(([name] for telling, name in _TELLING_NAMES if telling in state), [])


def looks_like(state: Mapping[str, Any], but: str = "") -> str:
    """The guess as a sentence; "" where nothing is recognised, or nothing ``but`` what is ruled out.

    Names may have a prefix, as in Lightning's files.
    """
    firsts = Counter(name.partition(".")[0] for name in state)
    prefix = max(firsts, key=firsts.__getitem__, default="")
    inner = {name.removeprefix(f"{prefix}."): value for name, value in state.items()}
    close = guess_architectures(state) or guess_architectures(inner)
    if but in close:
        return ""
    if close and close[0] in dict(_TELLING_NAMES).values():
        close.append("another of its family")
    return f"They look like {' or '.join(close)}." if close else ""


def named_in(content: Any) -> list[str]:
    """What a checkpoint says of its architecture, as ``--arch`` takes it; several where both libraries have the name.

    timm's scripts write ``arch``, and torchvision's ``args``, whose ``model`` it is.
    """
    if not isinstance(content, Mapping):
        return []
    arguments = content.get("args")
    values = arguments if isinstance(arguments, Mapping) else getattr(arguments, "__dict__", {})
    named = [one for one in (content.get("arch"), values.get("model"), values.get("arch")) if isinstance(one, str)]
    return next(filter(None, map(_in_libraries, named)), [])


def _in_libraries(name: str) -> list[str]:
    import timm
    import torchvision

    of_torchvision = [one for one in torchvision.models.list_models() if not one.startswith("quantized_")]
    known = {"timm": timm.is_model(name), "torchvision": name in of_torchvision}
    return [f"{library}:{name}" for library, has_it in known.items() if has_it]


def _resnet(state: Mapping[str, Any]) -> list[str]:
    depths = tuple(_count(state, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in range(1, 5))
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    name = _RESNETS.get((block, depths))
    if name is None:
        return []
    if "layer1.0.se.fc1.weight" in state:
        return [f"timm:se{name}"]
    if "layer1.0.conv2.weight" not in state:  # Res2Net has several in its place
        return []
    width, inputs = (*state["layer1.0.conv2.weight"].shape, 0, 0)[:2]
    if width == inputs == 64:
        return _in_both(name)
    if width == inputs == 128 and block == "bottleneck":
        return _in_both(f"wide_{name}_2")
    group_width = {(128, 4): "32x4d", (256, 8): "32x8d", (256, 4): "64x4d"}.get((width, inputs))
    return _in_both(f"{name.replace('resnet', 'resnext')}_{group_width}") if group_width else []


def _in_both(name: str) -> list[str]:
    return [f"torchvision:{name}", f"timm:{name}"]


def _count(state: Mapping[str, Any], pattern: str) -> int:
    return len({found[1] for name in state if (found := re.match(pattern, name))})
