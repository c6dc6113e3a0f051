from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed
import torchvision
from torch import nn

from sesurgeon import UsageError, VerificationError, add_se, apply_plan, make_plan, remove_se
from sesurgeon.blocks import BlockConfig, SqueezeExcite
from sesurgeon.graph import same, survey
from sesurgeon.placement import plan_from_data, plan_to_data
from sesurgeon.surgery import blocks_of, operate, operate_by, plan_of
from sesurgeon.surgery.proof import prove_identity
from tests.networks import FunctionalResNet, OddNet, PlainNet, trained_like

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETS = [OddNet, PlainNet, FunctionalResNet]


def run(model: nn.Module, images: torch.Tensor, *, training: bool) -> object:
    torch.manual_seed(3)
    return copy.deepcopy(model).train(training)(images)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", NETS)
def test_the_augmented_network_computes_the_same_bits(make: type[nn.Module], training: bool) -> None:
    model = make()
    augmented = add_se(model, example_inputs=SMALL)
    images = torch.randn(4, 3, 32, 32)
    assert same(run(augmented, images, training=training), run(model, images, training=training))
    assert len(blocks_of(augmented)) == {OddNet: 5, PlainNet: 2, FunctionalResNet: 2}[make]


@pytest.mark.parametrize("make", NETS)
def test_it_stays_what_it_was(make: type[nn.Module]) -> None:
    model = make()
    augmented = add_se(model, example_inputs=SMALL)
    keys = list(model.state_dict())
    assert isinstance(augmented, make)
    assert type(augmented).__name__ == make.__name__
    assert [key for key in augmented.state_dict() if key in set(keys)] == keys
    new = set(augmented.state_dict()) - set(keys)
    assert new == {f"{path}.{name}" for path, block in blocks_of(augmented).items() for name in block.state_dict()}
    for path, module in model.named_modules():
        assert isinstance(augmented.get_submodule(path), type(module))
        own = {name for name in vars(module) if not name.startswith("_")}
        assert own <= set(vars(augmented.get_submodule(path)))


def test_the_original_is_not_touched_unless_asked() -> None:
    model = OddNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    types = {path: type(module) for path, module in model.named_modules()}
    augmented = add_se(model, example_inputs=SMALL)
    assert augmented is not model
    assert {path: type(module) for path, module in model.named_modules()} == types
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(before) == list(model.state_dict())
    assert add_se(model, example_inputs=SMALL, inplace=True) is model
    assert len(blocks_of(model)) == 5


@pytest.mark.parametrize("training", [False, True])
def test_the_blocks_are_in_the_mode_of_the_network(training: bool) -> None:
    augmented = add_se(OddNet().train(training), example_inputs=SMALL, block="cbam")
    assert {module.training for module in augmented.modules()} == {training}


def test_a_network_can_be_augmented_beside_itself_in_one_memory() -> None:
    model = trained_like(OddNet())
    before = list(model.state_dict())
    surgery = operate(model, BlockConfig(), example_inputs=SMALL, shared=True)
    assert list(model.state_dict()) == before
    assert plan_of(model) is None
    assert blocks_of(surgery.model)
    own = {**dict(surgery.model.named_parameters()), **dict(surgery.model.named_buffers())}
    assert all(own[name] is tensor for name, tensor in (*model.named_parameters(), *model.named_buffers()))
    assert torch.equal(surgery.model.eval()(SMALL), model.eval()(SMALL))
    copied = operate(model, BlockConfig(), example_inputs=SMALL).model
    assert {id(tensor) for tensor in copied.parameters()}.isdisjoint(map(id, model.parameters()))


def test_iterating_over_a_sequential_still_does_what_its_forward_does() -> None:
    augmented = add_se(PlainNet(), example_inputs=SMALL, init="random").eval()
    x = SMALL
    for layer in augmented:
        x = layer(x)
    assert torch.equal(x, augmented(SMALL))
    assert len(augmented) == 9


@pytest.mark.parametrize("make", NETS)
def test_every_block_gets_a_live_gradient_in_two_steps(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    augmented = add_se(trained_like(make()), example_inputs=SMALL).train()
    optimizer = torch.optim.SGD((p for block in blocks_of(augmented).values() for p in block.parameters()), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(augmented(SMALL), torch.tensor([0, 1])).backward()
        optimizer.step()
    for path, block in blocks_of(augmented).items():
        assert all(p.grad is not None and p.grad.any() for p in block.parameters()), path


@pytest.mark.parametrize("make", NETS)
def test_removal_gives_the_original_back(make: type[nn.Module]) -> None:
    model = make()
    augmented = add_se(model, example_inputs=SMALL)
    back = remove_se(augmented)
    assert list(back.state_dict()) == list(model.state_dict())
    assert {path: type(module) for path, module in back.named_modules()} == {
        path: type(module) for path, module in model.named_modules()
    }
    assert {path: set(vars(module)) for path, module in back.named_modules()} == {
        path: set(vars(module)) for path, module in model.named_modules()
    }
    assert same(run(back, SMALL, training=True), run(model, SMALL, training=True))
    assert plan_of(augmented) is not None
    assert plan_of(back) is None


def test_timms_none_attribute_comes_back_after_removal() -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    augmented = add_se(model, example_inputs=torch.randn(2, 3, 32, 32))
    assert isinstance(augmented.layer1[0].se, SqueezeExcite)
    assert vars(remove_se(augmented).layer1[0])["se"] is None


def test_a_name_in_use_is_not_taken() -> None:
    model = timm.create_model("efficientnet_lite0", num_classes=3)  # its blocks have an Identity called se
    plan = make_plan(model, example_inputs=torch.randn(2, 3, 32, 32))
    assert {entry.attribute for entry in plan.entries} == {"se2"}


def test_methods_and_heads_of_the_class_work_on() -> None:
    odd = add_se(OddNet(), example_inputs=SMALL)
    assert odd.features_of(SMALL).shape == (2, 8, 8, 8)
    model = timm.create_model("resnet10t", num_classes=3)
    augmented = add_se(model, example_inputs=torch.randn(2, 3, 32, 32)).eval()
    augmented.reset_classifier(7)
    assert augmented(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    assert torch.equal(augmented.forward_features(SMALL), model.eval().forward_features(SMALL))


def moved(model: nn.Module) -> nn.Module:
    """With gates that are not at 1 any more, so that blocks cannot be lost unseen."""
    for block in blocks_of(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    return model


def test_a_deep_copy_is_independent_and_equal() -> None:
    augmented = moved(add_se(OddNet(), example_inputs=SMALL)).eval()
    copied = copy.deepcopy(augmented)
    assert torch.equal(copied(SMALL), augmented(SMALL))
    before = augmented(SMALL)
    moved(copied).get_parameter("last.se.fc2.bias").data.add_(3)
    assert torch.equal(augmented(SMALL), before)
    assert not torch.equal(copied(SMALL), before)


def test_the_state_dict_pickles_and_loads_strictly() -> None:
    augmented = moved(add_se(OddNet(), example_inputs=SMALL)).eval()
    state = pickle.loads(pickle.dumps(augmented.state_dict()))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    other = add_se(OddNet(), example_inputs=SMALL).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(other(SMALL), augmented(SMALL))


def test_torch_export_sees_the_blocks() -> None:
    augmented = moved(add_se(FunctionalResNet(), example_inputs=SMALL)).eval()
    program = torch.export.export(augmented, (SMALL,))
    torch.testing.assert_close(program.module()(SMALL), augmented(SMALL))
    assert any(name.startswith("se.fc1") for name in program.state_dict)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torch_compile_gives_the_same_without_a_graph_break() -> None:
    augmented = moved(add_se(OddNet(), example_inputs=SMALL)).eval()
    compiled = torch.compile(augmented, backend="eager", fullgraph=True)
    assert torch.equal(compiled(SMALL), augmented(SMALL))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_it_trains_under_ddp() -> None:
    augmented = add_se(FunctionalResNet(), example_inputs=SMALL).train()
    wrapped = nn.parallel.DistributedDataParallel(augmented)
    wrapped(SMALL).square().sum().backward()
    assert augmented.get_parameter("se.fc2.weight").grad.any()
    with pytest.raises(UsageError, match="wrapped in DistributedDataParallel"):
        add_se(wrapped)


def test_half_precision_networks_get_half_precision_blocks() -> None:
    model = FunctionalResNet().bfloat16()
    augmented = add_se(model, example_inputs=SMALL.bfloat16())
    assert {p.dtype for p in augmented.parameters()} == {torch.bfloat16}


def test_a_plan_is_applied_to_other_weights_and_refused_on_another_network() -> None:
    plan = make_plan(OddNet(), example_inputs=SMALL)
    other = OddNet()
    augmented = apply_plan(other, plan_from_data(plan_to_data(plan)))
    assert torch.equal(augmented.eval()(SMALL), other.eval()(SMALL))
    assert list(augmented.state_dict()) == list(apply_plan(OddNet(), plan).state_dict())
    with pytest.raises(UsageError, match="another architecture"):
        apply_plan(FunctionalResNet(), plan)
    with pytest.raises(UsageError, match="inserted blocks already"):
        apply_plan(augmented, plan)


def test_operating_twice_is_refused_before_anything_changes() -> None:
    augmented = add_se(FunctionalResNet(), example_inputs=SMALL, include=[".:residual"])
    with pytest.raises(UsageError, match="inserted blocks already"):
        add_se(augmented, example_inputs=SMALL, inplace=True)
    assert list(blocks_of(augmented)) == ["se"]


def test_a_survey_of_before_is_of_no_use_after() -> None:
    model = FunctionalResNet()
    found = survey(model, SMALL)
    plan = plan_from_data({"version": 2, "blocks": [{"site": ".:residual"}]})
    operate_by(plan, found, inplace=True)
    with pytest.raises(UsageError, match="inserted blocks already"):
        operate_by(plan, found, inplace=True)
    assert list(blocks_of(model)) == ["se"]


def test_a_branch_starts_from_what_the_block_on_its_start_gave() -> None:
    augmented = add_se(FunctionalResNet(), example_inputs=SMALL, policy=["post", "pre"])
    plan = plan_of(augmented)
    assert plan is not None
    path = {entry.site: entry.path for entry in plan.entries}
    seen: dict[str, torch.Tensor] = {}
    augmented.get_submodule(path[".:sum"]).register_forward_hook(lambda _, given, gave: seen.update(gave=gave))
    augmented.get_submodule(path[".:fork#2"]).register_forward_pre_hook(lambda _, given: seen.update(given=given[0]))
    augmented(SMALL)
    assert seen["given"] is seen["gave"]


def test_a_failed_proof_raises_and_leaves_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SqueezeExcite.forward
    monkeypatch.setattr(SqueezeExcite, "forward", lambda self, x: original(self, x) * 1.001)
    model = OddNet()
    keys = list(model.state_dict())
    with pytest.raises(VerificationError, match="in eval and train mode are not the ones before"):
        add_se(model, example_inputs=SMALL, inplace=True)
    assert list(model.state_dict()) == keys
    assert blocks_of(model) == {}


def test_a_network_that_is_random_by_itself_is_named_as_the_cause() -> None:
    runs = itertools.count()

    class Restless(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + next(runs)

    model = Restless(FunctionalResNet())
    with pytest.raises(VerificationError, match="gives other outputs each time"):
        operate(model, BlockConfig(), example_inputs=SMALL)


def test_random_blocks_have_nothing_to_prove_and_say_so() -> None:
    surgery = operate(OddNet(), BlockConfig(init="random"), example_inputs=SMALL)
    assert (surgery.proof.in_eval, surgery.proof.in_train) == (None, None)
    assert "by design" in str(surgery.proof)
    assert not torch.equal(surgery.model.eval()(SMALL), surgery.survey.model.eval()(SMALL))


def test_the_proof_compares_both_modes() -> None:
    found = survey(OddNet(), SMALL)
    proof = prove_identity(copy.deepcopy(found.model), found)
    assert (proof.in_eval, proof.in_train, proof.note) == (True, True, "")


@pytest.mark.parametrize(("name", "attention"), [("resnet18", "seresnet18"), ("resnet34", "seresnet34")])
def test_random_init_is_timms_own_se_network(name: str, attention: str) -> None:
    theirs = timm.create_model(attention).eval()
    ours = add_se(timm.create_model(name), init="random", example_inputs=torch.randn(2, 3, 64, 64)).eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    trained_like(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))


def test_torchvision_networks_too() -> None:
    model = torchvision.models.shufflenet_v2_x0_5()
    augmented = add_se(model, example_inputs=torch.randn(2, 3, 64, 64))
    assert len(blocks_of(augmented)) == 16
