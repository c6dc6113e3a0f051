"""Values of options, and the names of outputs that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sesurgeon.cli.asked.naming import beside
from sesurgeon.cli.asked.options import parse_kwargs
from sesurgeon.errors import UsageError


def test_values_are_typed_as_yaml() -> None:
    pairs = [
        "depth=4",
        "rate=0.5",
        "norm=batch",
        "bias=false",
        "widths=[8, 16]",
        "name='4'",
        "url=a=b",
        "none=",
        "eps=1e-05",
        "more={eps: -2E3, word: 1e}",
        "text='1e-05'",
    ]
    assert parse_kwargs(pairs) == {
        "depth": 4,
        "rate": 0.5,
        "norm": "batch",
        "bias": False,
        "widths": [8, 16],
        "name": "4",
        "url": "a=b",
        "none": None,
        "eps": 1e-05,
        "more": {"eps": -2000.0, "word": "1e"},
        "text": "1e-05",
    }
    assert parse_kwargs(None) == {}


@pytest.mark.parametrize("pair", ["depth", "=4", "a b=4", "widths=[8, 16"])
def test_a_pair_that_is_none_is_named(pair: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_kwargs(["depth=4", pair])
    assert f"'{pair}'" in caught.value.message


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("model.se.pt", "model.onnx"),
        ("models/net.v2.pth", "models/net.v2.onnx"),
        ("runs/finetune/one/best.pt", "runs/finetune/one/best.onnx"),
        ("weights", "weights.onnx"),
        ("timm:resnet50.a1_in1k", "resnet50.a1_in1k.onnx"),
        ("factory:package.module:make", "make.onnx"),
    ],
)
def test_an_output_lies_beside_its_model(model: str, expected: str) -> None:
    assert beside(model, ".onnx") == Path(expected)
