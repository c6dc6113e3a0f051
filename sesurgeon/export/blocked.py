"""The same ONNX graph, rewritten for onnxruntime's CPU kernels.

These keep tensors in a blocked layout (blocks of channels), and fuse a convolution with the sum and the ReLU after it.
A multiplication by one factor per channel prevents both: it has no kernel for the blocked layout, so the tensor is
reordered before and after it, and the sum and the ReLU are not fused. There are blocked kernels for a product of two
tensors of the same shape, for max pooling, and for a depthwise convolution, with which the sum and the ReLU are fused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_CHANNELS = 16  # per block, at most


def for_blocked_layout(model: Any) -> None:
    """Rewrite an ``onnx_ir.Model`` in place; its outputs stay the same, up to rounding.

    - Means over height and width become ``GlobalAveragePool``. If it pools the output of a pointwise convolution and
      only another one reads the result, it pools the first one's input instead, and the two convolutions are merged:
      the mean of W x + b is W mean(x) + b.
    - Squeezed layers with a ReLU are padded with zero units to whole blocks of channels; otherwise their few channels
      would be reordered.
    - The factors of each channel are expanded to the size of the tensor, along the width and then along the height, by
      max pooling with padding, whose windows see only the one value; then the product is one of two equal shapes.
    - If the product is followed by a sum that no other convolution can be fused with, a depthwise convolution with
      weight 1 is put in between.
    """
    import onnx_ir.passes.common

    graph = model.graph
    for node in list(graph):
        if node.op_type == "ReduceMean" and _is_over_pixels(node):
            _pool(graph, node)
    for node in list(graph):
        if node.op_type == "GlobalAveragePool":
            _pool_earlier(graph, node)
    for node in list(graph):
        if _is_pointwise(node) and _spatial_size(node.outputs[0]) == (1, 1):
            _fill_blocks(graph, node)
    for node in list(graph):
        if node.op_type == "Mul":
            _expand_factors(graph, node)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)  # the weights of merged convolutions


def _is_over_pixels(node: Any) -> bool:
    """Whether a mean is taken over height and width, which are kept with size 1."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    keeps = node.attributes["keepdims"].value if "keepdims" in node.attributes else 1
    rank = len(node.inputs[0].shape or ())
    return axes is not None and keeps == 1 and rank == 4 and {axis % rank for axis in axes.numpy().tolist()} == {2, 3}


def _pool(graph: Any, mean: Any) -> None:
    pooled = _before(graph, mean, "GlobalAveragePool", [mean.inputs[0]], mean.outputs[0])
    _replace(graph, mean, pooled)


def _pool_earlier(graph: Any, pool: Any) -> None:
    """Rewrite conv -> pool -> fc as pool -> fc', where fc' has the product of both weights."""
    conv, readers = pool.inputs[0].producer(), pool.outputs[0].consumers()
    if conv is None or not _is_pointwise(conv) or len(readers) != 1 or not _is_pointwise(readers[0]):
        return
    if pool.outputs[0].is_graph_output():
        return
    fc = readers[0]
    (inner, inner_bias), (outer, outer_bias) = _weights(conv), _weights(fc)
    weight = _constant(graph, f"{fc.outputs[0].name}_merged_weight", (outer @ inner)[:, :, None, None])
    bias = _constant(graph, f"{fc.outputs[0].name}_merged_bias", outer @ inner_bias + outer_bias)
    means = _before(graph, pool, "GlobalAveragePool", [conv.inputs[0]], None, shape=_pooled(conv.inputs[0]))
    merged = _before(graph, fc, "Conv", [means, weight, bias], fc.outputs[0], kernel_shape=[1, 1])
    _replace(graph, fc, merged)
    graph.remove(pool, safe=True)


def _fill_blocks(graph: Any, fc1: Any) -> None:
    """Add hidden units with zero weights to fc1 -> ReLU -> fc2."""
    import onnx_ir as ir

    activations = fc1.outputs[0].consumers()
    readers = activations[0].outputs[0].consumers() if [node.op_type for node in activations] == ["Relu"] else []
    width = fc1.inputs[1].const_value.shape[0]
    missing = -width % _CHANNELS
    if not missing or len(readers) != 1 or not _is_pointwise(readers[0]):
        return
    if any(node.outputs[0].is_graph_output() for node in (fc1, activations[0])):
        return
    for node, operand, axis in ((fc1, 1, 0), (fc1, 2, 0), (readers[0], 1, 1)):
        if operand < len(node.inputs) and (value := node.inputs[operand]) is not None:
            units = value.const_value.numpy()
            filled = np.pad(units, [(0, missing if along == axis else 0) for along in range(units.ndim)])
            node.replace_input_with(
                operand, _constant(graph, f"{node.outputs[0].name}_filled_{operand}_{axis}", filled)
            )
    for node in (fc1, activations[0]):
        (output,) = node.outputs
        output.shape = ir.Shape([output.shape[0], width + missing, 1, 1])


def _expand_factors(graph: Any, product: Any) -> None:
    tensor, factors = sorted(product.inputs, key=lambda value: _spatial_size(value) == (1, 1))
    size = _spatial_size(tensor)
    if size is None or size == (1, 1) or _spatial_size(factors) != (1, 1) or factors.producer() is None:
        return
    height, width = size
    shape = list(factors.shape)
    for window, pooled in (([1, width], [*shape[:3], width]), ([height, 1], [*shape[:2], height, width])):
        pads = [side - 1 for side in window] * 2
        factors = _before(graph, product, "MaxPool", [factors], None, pooled, kernel_shape=window, pads=pads)
    spread = _before(graph, product, "Mul", [tensor, factors], product.outputs[0])
    if _needs_carrier(product.outputs[0]):
        channels = int(product.outputs[0].shape[1])
        ones = _constant(graph, f"{spread.name}_ones", np.ones((channels, 1, 1, 1)))
        spread = _before(
            graph, product, "Conv", [spread, ones], product.outputs[0], group=channels, kernel_shape=[1, 1]
        )
    _replace(graph, product, spread)


def _needs_carrier(scaled: Any) -> bool:
    """Whether only a sum reads it whose other input is not from a convolution, with which the sum would be fused."""
    readers = scaled.consumers()
    if len(readers) != 1 or readers[0].op_type != "Add":
        return False
    makers = [value.producer() for value in readers[0].inputs if value is not scaled]
    return all(maker is None or maker.op_type != "Conv" for maker in makers)


def _is_pointwise(node: Any) -> bool:
    """Whether it is a dense 1x1 convolution with constant weights, stride 1 and no padding."""
    if node.op_type != "Conv" or any(value.const_value is None for value in node.inputs[1:] if value is not None):
        return False
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    strides, pads = attributes.get("strides", (1, 1)), attributes.get("pads", (0, 0, 0, 0))
    kernel = tuple(node.inputs[1].const_value.shape)[2:]
    plain = set(strides) == {1} and set(pads) == {0} and attributes.get("auto_pad", "NOTSET") == "NOTSET"
    return kernel == (1, 1) and attributes.get("group", 1) == 1 and plain


def _weights(conv: Any) -> tuple[Any, Any]:
    """The weight matrix and the bias of a 1x1 convolution, in float64."""
    weight = conv.inputs[1].const_value.numpy()[:, :, 0, 0].astype(np.float64)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    return weight, conv.inputs[2].const_value.numpy().astype(np.float64) if has_bias else np.zeros(len(weight))


def _spatial_size(value: Any) -> tuple[int, int] | None:
    """Height and width of (N, C, H, W); None if they are not known."""
    shape = value.shape
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return shape[2], shape[3]


def _pooled(value: Any) -> list[Any]:
    return [*value.shape[:2], 1, 1]


def _constant(graph: Any, name: str, value: Any) -> Any:
    import onnx_ir as ir

    made = ir.val(name, const_value=ir.tensor(value.astype(np.float32), name=name))
    graph.register_initializer(made)
    return made


def _before(
    graph: Any, place: Any, operation: str, inputs: list[Any], like: Any, shape: Any = None, **attributes: Any
) -> Any:
    """Insert a node before ``place``; its output has the type and shape of ``like``, by default of the first input."""
    import onnx_ir as ir

    made = ir.node(operation, inputs, attributes=attributes)
    (output,) = made.outputs
    source = inputs[0] if like is None else like
    output.type, output.shape = source.type, source.shape if shape is None else ir.Shape(shape)
    graph.insert_before(place, made)
    return output


def _replace(graph: Any, node: Any, output: Any) -> None:
    """Let the readers of ``node`` read ``output``, and remove the node; an output of the graph keeps its name."""
    import onnx_ir as ir

    (old,) = node.outputs
    name = old.name if old.is_graph_output() else output.name
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    output.name = name
