"""The library's functions with the name of a file in the place of what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import sesurgeon
from sesurgeon import UsageError


@pytest.mark.parametrize(
    ("function", "others"),
    [
        ("find_sites", ()),
        ("make_plan", ()),
        ("add_se", ()),
        ("remove_se", ()),
        ("fold_gate_scale", ()),
        ("save", ("out.pt",)),
        ("extract_adapter", ("out.safetensors",)),
        ("export_onnx", ("out.onnx",)),
        ("export_pt2", ("out.pt2",)),
        ("finetune", ("data",)),
        ("evaluate", ("data",)),
        ("study_gates", ("data",)),
        ("prune", ("data",)),
    ],
)
@pytest.mark.parametrize("given", ["model.pt", None, {"fc.weight": 1}])
def test_a_network_is_wanted(
    function: str, others: tuple[str, ...], given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"A network is wanted, not a {type(given).__name__}\.") as caught:
        getattr(sesurgeon, function)(given, *others)
    assert "sesurgeon.load" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_wanted() -> None:
    with pytest.raises(UsageError, match="A plan is wanted, not a str") as caught:
        sesurgeon.apply_plan(nn.Conv2d(1, 1, 1), "plan.yaml")  # type: ignore[arg-type]
    assert "sesurgeon.read_plan" in str(caught.value.hint)


def test_what_is_a_network_already_is_not_loaded() -> None:
    with pytest.raises(UsageError, match="A Conv2d is no file and no name"):
        sesurgeon.load(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
