"""Convolution, norm, activation: the units of a plain network."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.flow import Flow


def conv_units(flow: Flow) -> list[Candidate]:
    """Every convolution that a norm or an activation follows, up to the last of them, in order (the paper's VGG)."""
    sequential = type(flow.owner).forward is nn.Sequential.forward
    found = []
    for node in flow.nodes:
        module = ops.module_of(flow.owner, node)
        if not isinstance(module, _ConvNd):
            continue
        chain = _chain(flow, node)
        if len(chain) == 1:
            continue
        end = chain[-1]
        host = str(end.target) if sequential and end.op == "call_module" else None
        found.append(
            Candidate(
                "conv",
                end,
                frozenset(chain),
                kernel_size=tuple(module.kernel_size),
                depthwise=module.groups > 1 and module.groups == module.in_channels,
                host=host,
            )
        )
    return found


def _chain(flow: Flow, conv: fx.Node) -> list[fx.Node]:
    """The convolution, its norm if one follows, its activation if one follows."""
    chain = [conv]
    following = _only_user(conv)
    module = None if following is None else ops.module_of(flow.owner, following)
    if following is not None and (
        (module is not None and ops.is_norm(module)) or ops.name_of(following) in ("batch_norm", "group_norm")
    ):
        chain.append(following)
        following = _only_user(following)
    if following is not None and ops.is_activation(flow.owner, following):
        chain.append(following)
    return chain


def _only_user(node: fx.Node) -> fx.Node | None:
    users = [user for user in node.users if not ops.is_shape_access(user)]
    return users[0] if len(users) == 1 else None
