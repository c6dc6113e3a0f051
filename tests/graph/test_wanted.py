"""Only graphs that somebody wants to change are compared with their modules, and one for both modes once."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import Site, survey
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.placement import Filters, plan_from_survey, survey_for
from tests.networks import ResidualBlock

X = torch.randn(2, 3, 6, 6)


class Checks:
    """In the place of the comparison: some owners are wrong, and who was looked at is noted."""

    def __init__(self, wrong: Collection[str] = ()) -> None:
        self.wrong: Collection[str] = wrong
        self.seen: list[tuple[bool, list[str]]] = []

    def __call__(self, local: LocalGraphs, owners: Collection[str]) -> dict[str, str]:
        if owners:
            self.seen.append((local.training, sorted(owners)))
        return {path: "it is wrong" for path in owners if path in self.wrong}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    found = Checks()
    monkeypatch.setattr(importlib.import_module("sesurgeon.graph.survey"), "unfaithful", found)
    return found


def network() -> nn.Sequential:
    """Of blocks that read in which mode they are, and so have two graphs."""
    return nn.Sequential(*(ResidualBlock(3) for _ in range(3)))


def last_residual(sites: Sequence[Site]) -> list[Site]:
    return [site for site in sites if site.kind == "residual"][-1:]


def test_all_are_by_default(checks: Checks) -> None:
    owners = {site.owner for site in survey(network(), X).sites}
    assert owners >= {"0", "1", "2"}
    assert checks.seen == [(False, sorted(owners)), (True, sorted(owners))]


def test_a_graph_that_is_one_for_both_modes_is_checked_in_eval_mode(checks: Checks) -> None:
    found = survey(nn.Sequential(BasicBlock(3, 3)), X, wanted=last_residual)
    assert checks.seen == [(False, ["0"])]
    assert found.graphs[True].graphs["0"] is found.graphs[False].graphs["0"]


def test_what_is_not_wanted_is_no_reason_for_a_pass(checks: Checks) -> None:
    found = survey(network(), X, wanted=last_residual)
    assert checks.seen == [(False, ["2"]), (True, ["2"])]
    assert {site.owner for site in found.sites} >= {"0", "1", "2"}


def test_where_one_is_wrong_what_is_wanted_instead_is_checked_too(checks: Checks) -> None:
    checks.wrong = ("2", "1")
    found = survey(network(), X, wanted=last_residual)
    assert [owners for _, owners in checks.seen] == [["2"], ["2"], ["1"], ["1"], ["0"], ["0"]]
    assert {site.owner for site in found.sites if site.kind == "residual"} == {"0"}
    assert [(left.path, left.reason) for left in found.left_alone] == [("2", "it is wrong"), ("1", "it is wrong")]


def test_a_plan_wants_its_own_sites(checks: Checks) -> None:
    model = network()
    plan = plan_from_survey(survey(model, X), ["standard"], BlockConfig(), Filters(include=("1",)))
    assert plan.sites == ["1:residual"]
    checks.seen.clear()
    survey_for(plan, model)
    assert checks.seen == [(False, ["1"]), (True, ["1"])]
