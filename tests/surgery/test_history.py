"""What was done to a network is in its history, whether a command or a program did it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sesurgeon
from sesurgeon.models import provenance_of
from tests.networks import OddNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_surgery_is_remembered_and_kept(tmp_path: Path) -> None:
    net = OddNet().eval()
    augmented = sesurgeon.add_se(net, SMALL, policy="inner")
    assert provenance_of(net).history == ()
    sesurgeon.save(augmented, tmp_path / "model.se.pt")
    again = sesurgeon.load(tmp_path / "model.se.pt", trust_pickle=True)
    blocks = len(sesurgeon.make_plan(net, SMALL, policy="inner").entries)
    (added,) = provenance_of(again).history
    assert added == {"command": "add-se", "policy": ["inner"], "blocks": blocks, "proof": added["proof"]}
    assert "identical" in added["proof"]
    assert provenance_of(sesurgeon.remove_se(again)).history == (added, {"command": "remove-se", "blocks": blocks})
    assert provenance_of(again).history == (added,)


def test_a_plan_that_is_applied_is_remembered_without_a_proof() -> None:
    net = OddNet().eval()
    augmented = sesurgeon.apply_plan(net, sesurgeon.make_plan(net, SMALL))
    assert [sorted(record) for record in provenance_of(augmented).history] == [["blocks", "command", "policy"]]


def test_nothing_is_remembered_where_nothing_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    net = OddNet().eval()
    assert provenance_of(sesurgeon.remove_se(net)).history == ()

    def fails(*_: object) -> None:
        raise sesurgeon.VerificationError("the outputs changed")

    monkeypatch.setattr("sesurgeon.surgery.add.prove_identity", fails)
    with pytest.raises(sesurgeon.VerificationError):
        sesurgeon.add_se(net, SMALL, inplace=True)
    assert provenance_of(net).history == ()
