"""Every network of torchvision and timm: its name, its family, and an instance with weights as training leaves them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

import sesurgeon
from sesurgeon.errors import UsageError
from sesurgeon.models import isolated

# Smaller tensors are filled as the network wants it: they may be buffers, which nobody fills afterwards.
_LARGE = 1 << 16
_LEAST_VARIANCE = 0.1


@dataclass(frozen=True)
class Network:
    """One architecture.

    Attributes:
        library: "torchvision" or "timm".
        name: as the library lists it.
        family: the library's module that defines it.
    """

    library: str
    name: str
    family: str

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"

    @property
    def classifies(self) -> bool:
        """Whether it takes a batch of images, and nothing else: all of timm's, and those at torchvision's top level."""
        return "." not in self.family


def list_networks() -> list[Network]:
    """All of them, torchvision's first."""
    return [
        *(Network("torchvision", name, _torchvision_family(name)) for name in torchvision.models.list_models()),
        *(Network("timm", name, _timm_family(name)) for name in timm.list_models()),
    ]


def build(network: Network) -> nn.Module:
    """The network in eval mode, by the road that a user's model takes, with random weights.

    Raises:
        UsageError: sesurgeon refuses it (quantised networks).
    """
    torch.manual_seed(0)
    with _without_large_fills():
        model = sesurgeon.load(str(network))
    fill_as_trained(model)
    return model


def build_empty(network: Network) -> nn.Module:
    """The network without weights, to count what is in it: on the meta device, where its builder gets along with that.

    Raises:
        UsageError: sesurgeon refuses it (quantised networks).
    """
    try:
        with torch.device("meta"):
            return sesurgeon.load(str(network))
    except UsageError:
        with _without_large_fills():
            return sesurgeon.load(str(network))


def count_convs(model: nn.Module) -> int:
    """Convolution modules."""
    return sum(isinstance(module, _ConvNd) for module in model.modules())


@torch.no_grad()
def fill_as_trained(model: nn.Module) -> None:
    """Random weights without any of the fresh zeros (last norms, layer scales, gains) that hide what is behind them."""
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.ndim > 1:
            bound = math.sqrt((6 if parameter.ndim > 2 else 3) / max(1, parameter[0].numel()))
            parameter.uniform_(-bound, bound)
        elif name.endswith("bias"):
            parameter.uniform_(-0.2, 0.2)
        else:
            parameter.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)


def settle(model: nn.Module, images: Tensor) -> None:
    """Running statistics as training leaves them: those of what comes in. Others make deep networks overflow.

    Does nothing where the network does not run in train mode.
    """
    seen: dict[_NormBase, tuple[Tensor, Tensor]] = {}

    def note(norm: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(norm, _NormBase) and norm.running_mean is not None:
            values = args[0].transpose(0, 1).flatten(1)
            # A small map's variance may be next to nothing, and other images would overflow again.
            seen[norm] = values.mean(1), values.var(1).clamp(min=_LEAST_VARIANCE)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with isolated(model, training=True):
            model(images.clone())
    except Exception:  # the survey will say why
        return
    finally:
        handle.remove()
    for norm, (mean, variance) in seen.items():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _torchvision_family(name: str) -> str:
    return str(torchvision.models.get_model_builder(name).__module__).removeprefix("torchvision.models.")


def _timm_family(name: str) -> str:
    return str(timm.models.model_entrypoint(name).__module__).removeprefix("timm.models.")


@contextlib.contextmanager
def _without_large_fills() -> Iterator[None]:
    with _NoLargeFills(), contextlib.ExitStack() as stack:
        for place in ("torch.nn.init._no_grad_trunc_normal_", "timm.layers.weight_init._trunc_normal_"):
            stack.enter_context(mock.patch(place, lambda tensor, *rest, **more: tensor))
        yield


class _NoLargeFills(TorchFunctionMode):
    """Skips what fills a large tensor with random numbers: half of the time that building takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_", "erfinv_"):
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, Tensor) and tensor.numel() > _LARGE:
                return tensor
        return func(*args, **kwargs)
