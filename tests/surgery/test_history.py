"""What was done to a network is in its history, whether a command or a program did it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon.models import provenance_of
from sesurgeon.surgery import blocks_of, plan_of
from tests.networks import OddNet

SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_surgery_and_removal_are_remembered_and_kept(tmp_path: Path) -> None:
    net = sesurgeon.load("timm:resnet10t", num_classes=4)
    augmented = sesurgeon.add_se(net, SMALL, policy="inner")
    assert provenance_of(net).history == ()
    sesurgeon.save(augmented, tmp_path / "model.se.pt")
    again = sesurgeon.load(tmp_path / "model.se.pt")
    (added,) = provenance_of(again).history
    assert added == {"command": "add-se", "policy": ["inner"], "blocks": 4, "proof": added["proof"]}
    assert "identical" in added["proof"]
    sesurgeon.save(sesurgeon.remove_se(again), tmp_path / "model.base.pt")
    assert provenance_of(again).history == (added,)
    back = sesurgeon.load(tmp_path / "model.base.pt")
    assert provenance_of(back).history == (added, {"command": "remove-se", "blocks": 4})


def test_a_module_that_knew_nothing_of_us_forgets_us(tmp_path: Path) -> None:
    back = sesurgeon.remove_se(sesurgeon.add_se(OddNet().eval(), SMALL))
    torch.save(back, tmp_path / "back.pt")
    named = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "back.pt")
    assert any(name.startswith("tests.networks.") for name in named)
    assert not [name for name in named if name.startswith("sesurgeon")]


def test_a_plan_that_is_applied_is_remembered_without_a_proof() -> None:
    net = OddNet().eval()
    plan = sesurgeon.make_plan(net, SMALL)
    (record,) = provenance_of(sesurgeon.apply_plan(net, plan)).history
    assert record == {"command": "add-se", "policy": ["standard"], "blocks": len(plan.entries)}
    assert provenance_of(sesurgeon.apply_plan(net, replace(plan, entries=()))).history == ()


def test_a_part_with_blocks_remembers_by_itself() -> None:
    part = sesurgeon.add_se(sesurgeon.load("timm:resnet10t", num_classes=4), SMALL)
    whole = sesurgeon.remove_se(nn.Sequential(part, nn.Softmax(1)))
    assert [record["command"] for record in provenance_of(whole[0]).history] == ["add-se", "remove-se"]
    assert provenance_of(whole).history == ()
    assert (plan_of(whole[0]), blocks_of(whole)) == (None, {})


def test_nothing_is_remembered_where_nothing_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    net = sesurgeon.load("timm:resnet10t", num_classes=4)
    assert provenance_of(sesurgeon.remove_se(net)).history == ()

    def fails(*_: object) -> None:
        raise sesurgeon.VerificationError("the outputs changed")

    monkeypatch.setattr("sesurgeon.surgery.add.prove_identity", fails)
    with pytest.raises(sesurgeon.VerificationError):
        sesurgeon.add_se(net, SMALL, inplace=True)
    assert provenance_of(net).history == ()
