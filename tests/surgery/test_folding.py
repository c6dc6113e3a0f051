"""A gate's factor moves into the layer before the block, and no output changes by a bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon import UsageError, VerificationError, add_se, apply_plan, fold_gate_scale, make_plan, remove_se
from sesurgeon.graph import same
from sesurgeon.models import Provenance, Source, attach_provenance
from sesurgeon.placement import plan_from_data, survey_for
from sesurgeon.surgery import Proof, blocks_of, fold, operate_by, plan_of
from tests.detectors import detector
from tests.networks import FunctionalResNet, OddNet, PlainNet, trained_like
from tests.surgery.trained import IMAGES, assert_same, augmented

pytestmark = pytest.mark.filterwarnings("ignore:Blocks keep the factor")


def test_the_factor_moves_by_hand() -> None:
    model = augmented(PlainNet())
    folded = fold_gate_scale(model)
    ours, theirs = folded.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    doubled = ["1.weight", "1.bias", "4.weight", "4.bias"]
    halved = ["2.se.fc1.weight", "5.se.fc1.weight"]
    for name, value in theirs.items():
        assert torch.equal(ours[name], value * (2 if name in doubled else 0.5 if name in halved else 1))
    assert isinstance(folded.get_submodule("2.se.gate"), nn.Sigmoid)
    assert_same(folded, model)


@pytest.mark.parametrize(("make", "folded", "left"), [
    (PlainNet, 2, []),
    (FunctionalResNet, 2, []),
    (OddNet, 4, ["mixed.se"]),
])  # fmt: skip
def test_folding_changes_no_output(make: type[nn.Module], folded: int, left: list[str]) -> None:
    model = augmented(make())
    before = copy.deepcopy(model.state_dict())
    folding = fold(model)
    assert len(folding.folded) == folded
    assert [item.path for item in folding.left] == left
    assert folding.proof is not None
    assert (folding.proof.in_eval, folding.proof.in_train) == (True, True)
    assert_same(folding.model, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("block", ["se", "ese", "eca", "cbam", "gc", "ge"])
@pytest.mark.parametrize("inplace", [False, True])
def test_every_block_can_be_folded(block: str, inplace: bool) -> None:
    model = augmented(PlainNet(), block=block)
    before = copy.deepcopy(model)
    folding = fold(model, inplace=inplace)
    assert (folding.model is model) == inplace
    assert folding.folded == ("2.se", "5.se")
    assert all(part.gate_scale == 1 for part in blocks_of(folding.model).values())
    assert_same(folding.model, before)


def test_blocks_that_keep_their_factor_are_named_to_users_of_the_function() -> None:
    with pytest.warns(UserWarning, match=r"Blocks keep the factor of their gates: mixed\.se: the tensor x, before"):
        fold_gate_scale(add_se(OddNet(), IMAGES))


def test_what_is_plain_already_is_neither_folded_nor_left() -> None:
    once = fold(augmented(PlainNet())).model
    for model in (once, add_se(PlainNet(), IMAGES, init="random"), PlainNet()):
        again = fold(model)
        assert (again.folded, again.left, again.proof) == ((), (), None)
        assert_same(again.model, model)


def test_a_failed_proof_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = augmented(PlainNet())
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("sesurgeon.surgery.folding.gate_scale.same", lambda *_: False)
    with pytest.raises(VerificationError, match="of this PlainNet are not the ones before"):
        fold(model, inplace=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(block.gate_scale == 2 for block in blocks_of(model).values())


def test_outputs_that_are_not_finite_prove_nothing() -> None:
    model = augmented(PlainNet())
    before = copy.deepcopy(model.state_dict())
    list(model.parameters())[-1].data.fill_(torch.nan)  # the bias of the head
    with pytest.raises(VerificationError, match="All outputs of PlainNet are NaN or infinite"):
        fold(model, inplace=True)
    assert torch.equal(model.state_dict()["1.weight"], before["1.weight"])


def test_a_detector_that_finds_nothing_is_proved_by_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector("faster")
    model.roi_heads.score_thresh = 2.0
    model = augmented(model, ([torch.rand(3, 32, 40)],))
    assert fold(model).folded == ("backbone.1.se",)
    monkeypatch.setattr("sesurgeon.surgery.folding.gate_scale.multiply", lambda *_: None)
    with pytest.raises(VerificationError, match=r"are not the ones before \(eval, train mode\)"):
        fold(model)


def test_a_network_around_an_augmented_one_says_where_to_fold() -> None:
    with pytest.raises(UsageError, match=r"no plan of its own.*\n.*inside it"):
        fold(nn.Sequential(augmented(PlainNet())))


# -- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("block", ["se", "cbam"])
def test_removal_takes_the_factor_out_again(inplace: bool, block: str) -> None:
    net = trained_like(OddNet())
    original = copy.deepcopy(net.state_dict())
    back = remove_se(fold_gate_scale(augmented(net, block=block)), inplace=inplace)
    assert list(back.state_dict()) == list(original)
    assert all(torch.equal(value, original[name]) for name, value in back.state_dict().items())
    assert_same(back, net)


def test_removal_that_is_refused_leaves_the_factors_where_they_are() -> None:
    model = fold_gate_scale(augmented(PlainNet()))
    before = copy.deepcopy(model.state_dict())
    forward = model.get_submodule("2").forward
    model.get_submodule("2").forward = lambda x: forward(x)
    with pytest.raises(UsageError, match="something gave 2 another class or forward"):
        remove_se(model, inplace=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_removal_without_the_layer_that_took_the_factor_changes_nothing() -> None:
    model = fold_gate_scale(augmented(PlainNet()))
    model[4] = nn.Identity()  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"folded into 4\.bias, 4\.weight, which is not there any more"):
        remove_se(model, inplace=True)
    assert len(blocks_of(model)) == 2


def test_the_plan_of_a_folded_network_puts_unfolded_blocks_into_the_original() -> None:
    net = trained_like(OddNet())
    plan = plan_of(fold_gate_scale(add_se(net, IMAGES)))
    assert plan is not None
    assert plan.entries[0].folded == ("shared.bn2.bias", "shared.bn2.weight")
    assert plan.entries[0].config.plain
    again = apply_plan(net, plan)
    assert_same(again, net)
    assert plan_of(again) == make_plan(net, IMAGES)
    assert_same(remove_se(again), net)
    surgery = operate_by(plan, survey_for(plan, net))
    assert surgery.proof == Proof(True, True)
    assert_same(surgery.model, net)


def test_gates_that_are_plain_without_a_fold_stay_plain() -> None:
    net = trained_like(OddNet())
    plan = make_plan(net, IMAGES)
    entries = (replace(entry, config=replace(entry.config, plain=True)) for entry in plan.entries)
    plain = replace(plan, entries=tuple(entries))
    surgery = operate_by(plain, survey_for(plain, net))
    assert surgery.proof == Proof(None, None, "a plain gate changes them by design")
    assert {block.gate_scale for block in blocks_of(surgery.model).values()} == {1.0}


@pytest.mark.parametrize("source", ["module", "factory:tests.networks:OddNet"])
def test_a_folded_network_is_kept_and_comes_back(source: str, tmp_path: Path) -> None:
    net = trained_like(OddNet())
    if source != "module":
        attach_provenance(net, Provenance(Source.parse(source)))
    folded = fold_gate_scale(augmented(net))
    before = copy.deepcopy(folded.state_dict())
    sesurgeon.save(folded, tmp_path / "odd.pt")
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    again = sesurgeon.load(tmp_path / "odd.pt", arch=None if source == "module" else source, trust_pickle=True)
    assert plan_of(again) == plan_of(folded)
    assert_same(again, folded)
    assert_same(remove_se(again), net)
    assert fold(again).folded == ()


@pytest.mark.parametrize("kind", ["faster", "fcos"])
def test_a_detector_is_folded_and_proved_with_its_targets(kind: str) -> None:
    images = [torch.rand(3, 32, 40), torch.rand(3, 36, 32)]
    model = augmented(detector(kind), (images,))
    folding = fold(model)
    assert (folding.folded, folding.left) == (("backbone.1.se",), ())
    assert folding.proof is not None
    assert (folding.proof.in_eval, folding.proof.in_train) == (True, True)
    others = [image.flip(1) for image in images]
    with torch.no_grad():
        assert same(folding.model.eval()(others), model.eval()(others))


def test_a_plan_that_names_no_weights_is_refused() -> None:
    data = {"version": 2, "blocks": [{"site": "1:residual", "folded": "bn2.weight"}]}
    with pytest.raises(UsageError, match=r"folded must be a list of names of weights, not 'bn2\.weight'"):
        plan_from_data(data)


@pytest.mark.parametrize("block", ["se", "cbam"])
def test_weights_of_before_folding_do_not_pass_for_folded_ones(block: str, tmp_path: Path) -> None:
    model = augmented(OddNet(), block=block)
    folded = sesurgeon.fold_gate_scale(copy.deepcopy(model))
    for net, other in ((model, folded), (folded, model)):
        torch.save(other.state_dict(), tmp_path / "net.pt")
        with pytest.raises(RuntimeError, match=r"shared\.se.*with a factor of .* was folded \(sesurgeon"):
            net.load_state_dict(torch.load(tmp_path / "net.pt"), strict=False)
        torch.save(net.state_dict(), tmp_path / "net.pt")
        net.load_state_dict(torch.load(tmp_path / "net.pt"))
        net.load_state_dict(dict(net.state_dict()))  # which does not say
    assert list(model.state_dict()) == list(folded.state_dict())
