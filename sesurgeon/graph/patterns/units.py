"""Convolution, norm, activation: the units of a plain network."""

from __future__ import annotations

from typing import cast

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow


def conv_units(flow: Flow) -> list[Candidate]:
    """Every convolution that a norm or an activation follows, with these, in order (as in the paper's VGG).

    A convolution is torch's, or a leaf that has such a weight and says so by its name (StyleGAN's ``EqualConv2d``).
    """
    sequential = type(flow.owner).forward is nn.Sequential.forward
    found = []
    for node in flow.nodes:
        module = ops.module_of(flow.owner, node)
        if module is None or not _is_named_convolution(module):
            continue
        chain = unit_from(flow, node)
        if len(chain) == 1:
            continue
        end = chain[-1]
        host = str(end.target) if sequential and end.op == "call_module" else None
        found.append(unit_candidate(end, frozenset(chain), str(node.target), module, host))
    return found


def unit_candidate(
    end: fx.Node, nodes: frozenset[fx.Node], path: str, convolution: nn.Module, host: str | None = None
) -> Candidate:
    """The candidate of the unit of these ``nodes``, with the ``convolution`` that lies at ``path`` in the owner."""
    groups = getattr(convolution, "groups", 1)
    return Candidate(
        "conv",
        end,
        nodes,
        convolution=path,
        kernel_size=_kernel_size(convolution),
        depthwise=groups > 1 and groups == getattr(convolution, "in_channels", None),
        host=host,
    )


def unit_from(flow: Flow, conv: fx.Node) -> list[fx.Node]:
    """The convolution (or the sum that stands for one), then its norm and its activation, as far as they follow.

    Permutations (ConvNeXt's norm wants channels last), drop-block and the cuts of causal convolutions may lie between.
    """
    chain = [conv]
    for is_next in (flow.ends_in_norm, flow.ends_in_activation):
        passed, following = [], ops.only_user(chain[-1])
        while following is not None and _is_passed(flow.owner, following):
            passed.append(following)
            following = ops.only_user(following)
        if following is not None and is_next(following):
            chain += [*passed, following]
    return chain


def _kernel_size(convolution: nn.Module) -> tuple[int, ...]:
    if isinstance(convolution, _ConvNd):  # whose weight may be made by a hook, when it runs
        return tuple(convolution.kernel_size)
    return tuple(cast(Tensor, convolution.weight).shape[2:])


def _is_named_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) or (ops.is_conv(module) and "Conv" in type(module).__name__)


def _is_passed(owner: nn.Module, node: fx.Node) -> bool:
    if ops.is_noise_or_scale(owner, node) or ops.is_crop(owner, node):
        return True
    return ops.permutation(owner, node) is not None
