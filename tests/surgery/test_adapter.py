"""What a task added to a network, in a file of its own: the whole comes back from it, and from no other base."""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import sesurgeon
from sesurgeon import UnreadableFileError, UsageError, VerificationError
from sesurgeon.finetune.data.heldout import runs_on
from sesurgeon.models import Preprocessing, attach_provenance, provenance_of
from sesurgeon.models.head import heads_of
from sesurgeon.models.new_head import replace_head
from sesurgeon.surgery import blocks_of, fold, plan_of, read_adapter
from sesurgeon.surgery.keeping.backbone import Fingerprint, fingerprint_of
from tests.networks import OddNet, PlainNet, trained_like
from tests.surgery.trained import IMAGES, outputs

BASES = {"odd": OddNet, "plain": lambda: nn.Sequential(*PlainNet()), "timm": lambda: timm.create_model("resnet10t")}


def task_on(base: nn.Module, classes: int = 3, **choices: object) -> nn.Module:
    """``base`` with blocks and a head as training leaves them."""
    model = sesurgeon.add_se(base, IMAGES, **choices)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        replace_head(model, classes)
        for block in blocks_of(model).values():
            for parameter in block.parameters():
                nn.init.normal_(parameter, std=0.5)
            for name, buffer in block.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
    facts = replace(
        provenance_of(model),
        classes=tuple(f"flower {index}" for index in range(classes)),
        preprocessing=Preprocessing((3, 16, 16), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25)),
        history=({"command": "add-se"}, {"command": "finetune", "phase": "blocks", "epoch": 3}),
    )
    attach_provenance(model, facts)
    return model.eval()


def assert_is(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for training in (False, True):
        assert torch.equal(outputs(found, IMAGES, training=training), outputs(expected, IMAGES, training=training))
    assert provenance_of(found) == provenance_of(expected)
    assert plan_of(found) == plan_of(expected)
    assert not found.training


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("classes", [3, 5, 1000])
def test_the_whole_network_comes_back_bit_for_bit(name: str, classes: int, tmp_path: Path) -> None:
    base = trained_like(BASES[name]())
    before = copy.deepcopy(base.state_dict())
    model = task_on(base, classes)
    sesurgeon.extract_adapter(model, tmp_path / "flowers.adapter.safetensors")
    assert_is(sesurgeon.apply_adapter(base, tmp_path / "flowers.adapter.safetensors"), model)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


@pytest.mark.parametrize(
    "choices", [{"block": "cbam"}, {"block": "gc", "policy": "inner"}, {"policy": ["pre", "conv"]}]
)
def test_whatever_blocks_they_are(choices: dict[str, object], tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base, **choices)
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    assert_is(sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors"), model)


def test_one_base_has_many_tasks_and_each_can_be_put_on_another(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    flowers, trees = task_on(base), task_on(base, 7, block="eca")
    sesurgeon.extract_adapter(flowers, tmp_path / "flowers.adapter.safetensors")
    assert_is(sesurgeon.apply_adapter(trees, tmp_path / "flowers.adapter.safetensors"), flowers)


def test_a_head_alone_is_an_adapter_too(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = copy.deepcopy(base)
    replace_head(model, 3)
    adapter = sesurgeon.extract_adapter(model.eval(), tmp_path / "head.adapter.safetensors")
    assert set(adapter.tensors) == {"fc.weight", "fc.bias"}
    assert_is(sesurgeon.apply_adapter(base, adapter), model)


@pytest.mark.parametrize("name", ["repvit_m0_9", "swiftformer_xs", "shvit_s1", "levit_conv_128s"])
def test_heads_of_several_parts_come_back(name: str, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 224, 224)
    base = trained_like(timm.create_model(name)).eval()
    model = sesurgeon.add_se(base, images)
    replace_head(model, 3)
    for path in heads_of(model):
        for parameter in model.get_submodule(path).parameters():
            nn.init.normal_(parameter, std=0.1)
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    again = sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors")
    assert list(again.state_dict()) == list(model.state_dict())
    assert torch.equal(again(images), model.eval()(images))


@pytest.mark.parametrize("other", [nn.Tanh(), nn.Identity()])
def test_a_base_whose_head_computes_something_else_is_refused(other: nn.Module, tmp_path: Path) -> None:
    base = timm.create_model("resnet10t")
    base.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 5))
    sesurgeon.extract_adapter(sesurgeon.add_se(base, IMAGES), tmp_path / "a.adapter.safetensors")
    base.fc[1] = other
    with pytest.raises(VerificationError, match="belongs to another base"):
        sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors")


def test_a_folded_network_comes_back_folded(tmp_path: Path) -> None:
    base = trained_like(nn.Sequential(*PlainNet()))
    folding = fold(task_on(base))
    assert folding.folded
    sesurgeon.extract_adapter(folding.model, tmp_path / "a.adapter.safetensors")
    assert_is(sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors"), folding.model)


def test_memory_order_does_not_matter(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base).to(memory_format=torch.channels_last)
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    again = sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert fingerprint_of(base) == fingerprint_of(copy.deepcopy(base).to(memory_format=torch.channels_last))


def test_the_file_holds_blocks_and_head_and_says_what_they_belong_to(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base)
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    with safe_open(tmp_path / "a.adapter.safetensors", "pt") as file:
        names, document = set(file.keys()), json.loads(file.metadata()["sesurgeon"])
    paths = (*blocks_of(model), "fc")
    assert names == {name for name in model.state_dict() if name.startswith(tuple(f"{path}." for path in paths))}
    assert document["version"] == sesurgeon.__version__
    assert document["weights"]["sha256"] == fingerprint_of(base).whole
    assert document["provenance"]["classes"] == ["flower 0", "flower 1", "flower 2"]
    assert read_adapter(tmp_path / "a.adapter.safetensors").parameters == sum(
        tensor.numel() for name, tensor in model.state_dict().items() if name in names
    )


def test_damage_within_its_tensors_is_noticed(tmp_path: Path) -> None:
    base, path = trained_like(OddNet()), tmp_path / "a.adapter.safetensors"
    sesurgeon.extract_adapter(task_on(base), path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="its tensors are not those that were written"):
        sesurgeon.apply_adapter(base, path)


def test_paths_of_data_stay_private_and_still_say_which_data_they_were(tmp_path: Path) -> None:
    base, path = trained_like(OddNet()), tmp_path / "a.adapter.safetensors"
    model = task_on(base)
    run = {"command": "finetune", "phase": "blocks", "data": str(tmp_path), "val_split": 0.1}
    attach_provenance(model, replace(provenance_of(model), history=(run,)))
    sesurgeon.extract_adapter(model, path)
    assert str(tmp_path).encode() not in path.read_bytes()
    again = sesurgeon.apply_adapter(base, path)
    assert [found["val_split"] for found in runs_on(again, tmp_path)] == [0.1]
    sesurgeon.extract_adapter(again, path)  # a digest of a digest would be one of other data
    assert len(runs_on(sesurgeon.apply_adapter(base, path), tmp_path)) == 1


@pytest.mark.parametrize("name", ["mixed.left.weight", "blocks.1.bn1.running_var", "blocks.1.bn1.num_batches_tracked"])
def test_a_base_with_other_weights_is_refused_and_the_part_named(name: str, tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base)
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    if name not in base.state_dict():
        name = next(key for key in base.state_dict() if key.endswith(name.rpartition(".")[2]))
    changed = base.state_dict()[name]
    changed.view(-1)[0] = changed.view(-1)[0] + 1
    with pytest.raises(VerificationError, match=rf"another base: its weights differ in {name.partition('.')[0]}\."):
        sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors")


def test_a_base_is_compared_as_a_whole_too(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    adapter = sesurgeon.extract_adapter(task_on(base), tmp_path / "a.adapter.safetensors")
    with pytest.raises(VerificationError, match=r"another base: its weights differ\."):
        sesurgeon.apply_adapter(base, replace(adapter, weights=Fingerprint("", {})))


def test_a_base_of_another_architecture_is_refused_and_what_differs_named(tmp_path: Path) -> None:
    sesurgeon.extract_adapter(task_on(trained_like(OddNet())), tmp_path / "a.adapter.safetensors")
    with pytest.raises(VerificationError, match="made for the class OddNet, this is ResNet"):
        sesurgeon.apply_adapter(timm.create_model("resnet10t"), tmp_path / "a.adapter.safetensors")


def test_another_head_does_not_make_another_base() -> None:
    base = trained_like(OddNet())
    other = copy.deepcopy(base)
    replace_head(other, 9)
    assert fingerprint_of(base) == fingerprint_of(other)


def test_a_network_that_was_trained_as_a_whole_is_refused(tmp_path: Path) -> None:
    model = task_on(trained_like(OddNet()))
    whole = {"command": "finetune", "phase": "all"}
    attach_provenance(model, replace(provenance_of(model), history=(whole,)))
    with pytest.raises(UsageError, match="trained as a whole") as caught:
        sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    assert "--train blocks" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    blocks = {"command": "finetune", "phase": "blocks"}  # since: what was trained before is the base
    attach_provenance(model, replace(provenance_of(model), history=(whole, blocks)))
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")


def test_a_network_into_which_constants_were_pruned_is_refused(tmp_path: Path) -> None:
    model = task_on(trained_like(OddNet()))
    history = provenance_of(model).history
    left = {"command": "prune", "blocks": [{"block": "last.se", "folded": []}]}  # its gate was 1
    attach_provenance(model, replace(provenance_of(model), history=(*history, left)))
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    folded = {"command": "prune", "blocks": [{"block": "last.se", "folded": ["stem.weight"]}]}
    attach_provenance(model, replace(provenance_of(model), history=(*history, folded)))
    with pytest.raises(UsageError, match="was pruned"):
        sesurgeon.extract_adapter(model, tmp_path / "b.adapter.safetensors")
    attach_provenance(model, replace(provenance_of(model), history=(folded, *history)))  # the base is the pruned one
    sesurgeon.extract_adapter(model, tmp_path / "b.adapter.safetensors")


def test_a_network_around_one_that_was_augmented_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no plan of its own"):
        sesurgeon.extract_adapter(nn.Sequential(task_on(trained_like(OddNet()))), tmp_path / "a.adapter.safetensors")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    path = tmp_path / "a.adapter.safetensors"
    sesurgeon.extract_adapter(task_on(base), path)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    torn = {
        "empty": b"",
        "header": content[: length // 2],
        "weights": content[:-100],
        "no json": content.replace(b'\\"format\\": 1', b'\\"format\\"; 1'),
        "format 9": content.replace(b'\\"format\\": 1', b'\\"format\\": 9'),
        "no plan": content.replace(b'\\"version\\": 2', b'\\"version\\": 7'),
        "pickle": b"\x80\x04" + content,
        "text": b"flowers",
    }
    for name, damaged in torn.items():
        assert damaged != content, name
        (tmp_path / "torn.safetensors").write_bytes(damaged)
        with pytest.raises(UnreadableFileError):
            sesurgeon.apply_adapter(base, tmp_path / "torn.safetensors")
    with pytest.raises(UnreadableFileError, match="There is no file"):
        sesurgeon.apply_adapter(base, tmp_path / "missing.safetensors")
    sesurgeon.save(base, tmp_path / "net.pt")
    with pytest.raises(UnreadableFileError, match="is not an adapter"):
        sesurgeon.apply_adapter(base, tmp_path / "net.pt")


def test_weights_in_safetensors_are_no_adapter(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    save_file(base.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(UnreadableFileError, match="is not an adapter"):
        sesurgeon.apply_adapter(base, tmp_path / "net.safetensors")


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    whole = sesurgeon.extract_adapter(task_on(base), tmp_path / "a.adapter.safetensors")
    without = {name: tensor for name, tensor in whole.tensors.items() if name != "fc.bias"}
    for tensors in (
        without,
        {**whole.tensors, "fc.bias": torch.zeros(4)},
        {**whole.tensors, "stem.weight": torch.ones(1)},
        {**whole.tensors, "fc.bias": whole.tensors["fc.bias"].double()},
    ):
        with pytest.raises(UnreadableFileError, match=r"fc\.bias|stem\.weight"):
            sesurgeon.apply_adapter(base, replace(whole, tensors=tensors))


@pytest.mark.parametrize("outputs", [50_000_000_000, -3])
def test_no_head_is_built_that_the_adapter_does_not_hold(outputs: int, tmp_path: Path) -> None:
    base = trained_like(OddNet())
    whole = sesurgeon.extract_adapter(task_on(base), tmp_path / "a.adapter.safetensors")
    with pytest.raises(UnreadableFileError, match=f"does not hold a head of {outputs} outputs"):
        sesurgeon.apply_adapter(base, replace(whole, num_classes=outputs))
    with pytest.raises(UnreadableFileError, match="names a head that is none: stem"):
        sesurgeon.apply_adapter(base, replace(whole, provenance=replace(whole.provenance, head="stem")))


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("kind",), "checkpoint", "its kind is another"),
        (("version",), None, "its version is something else"),
        (("num_classes",), "3", "its num_classes is something else"),
        (("num_classes",), 3.5, "its num_classes is something else"),
        (("provenance", "head"), ["fc"], "its head is something else"),
        (("provenance", "classes"), "abc", "its classes is something else"),
        (("provenance", "classes"), [1, 2, 3], "its classes are no names"),
        (("provenance", "classes"), ["a", "b"], "it names 2 classes for 3 outputs"),
        (("provenance", "num_classes"), float("inf"), "OverflowError"),
        (("provenance", "preprocessing"), {"input_size": [3, 8, 8], "mean": [0] * 3, "std": [0] * 3}, "std .*above 0"),
    ],
)
def test_what_an_adapter_says_of_itself_must_fit_together(
    place: tuple[str, ...], value: object, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.adapter.safetensors"
    sesurgeon.extract_adapter(task_on(trained_like(OddNet())), path)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["sesurgeon"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    inner = document[place[0]] if len(place) > 1 else document
    inner[place[-1]] = value
    save_file(tensors, path, {"sesurgeon": json.dumps(document)})
    with pytest.raises(UnreadableFileError, match=reason):
        read_adapter(path)


def test_a_document_without_end_is_refused(tmp_path: Path) -> None:
    save_file({"fc.bias": torch.zeros(1)}, tmp_path / "a.adapter.safetensors", {"sesurgeon": "[" * 200_000})
    with pytest.raises(UnreadableFileError, match="RecursionError"):
        read_adapter(tmp_path / "a.adapter.safetensors")


def test_names_of_classes_that_a_head_of_the_users_own_has_not_are_left_out(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base)
    model.set_submodule("fc", nn.Linear(model.get_submodule("fc").in_features, 4))  # type: ignore[arg-type]
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors")
    again = sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors")
    assert (provenance_of(again).classes, provenance_of(again).num_classes) == (None, 4)
    assert torch.equal(outputs(again, IMAGES, training=False), outputs(model, IMAGES, training=False))


def test_load_says_what_to_do_with_an_adapter(tmp_path: Path) -> None:
    path = tmp_path / "my a.adapter.safetensors"
    sesurgeon.extract_adapter(task_on(trained_like(OddNet())), path)
    with pytest.raises(UsageError, match="is an adapter") as caught:
        sesurgeon.load(path)
    assert f"sesurgeon adapter apply BASE '{path}'" in (caught.value.hint or "")


def test_a_backbone_that_a_loop_of_ones_own_trained_is_told_from_the_base(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base)
    with torch.no_grad():
        model.train()(IMAGES)  # frozen, but not in eval mode
    with pytest.raises(VerificationError, match=r"base: other BatchNorm statistics: .*running_mean"):
        sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors", base=base)
    with torch.no_grad():
        model.get_parameter("stem.weight").mul_(2)
    with pytest.raises(VerificationError, match=r"other weights: stem\.weight, .*\n.*frozen and in eval mode"):
        sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors", base=base)
    with pytest.raises(VerificationError, match="made for the class OddNet, this is Sequential"):
        sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors", base=nn.Sequential(*PlainNet()))
    assert list(tmp_path.iterdir()) == []


def test_the_base_with_a_task_of_its_own_is_the_base_still(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = fold(task_on(base)).model
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors", base=task_on(base, 7, block="eca"))
    assert_is(sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors"), model)


def test_a_head_of_the_users_own_hand_comes_back_on_a_base_that_has_it(tmp_path: Path) -> None:
    base = trained_like(OddNet())
    model = task_on(base)
    for net in (model, base):
        net.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(22, 3))
    sesurgeon.extract_adapter(model, tmp_path / "a.adapter.safetensors", base=base)
    again = sesurgeon.apply_adapter(base, tmp_path / "a.adapter.safetensors")
    assert torch.equal(again(IMAGES), model.eval()(IMAGES))
