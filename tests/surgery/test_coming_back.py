"""A checkpoint gives back the network that was saved, whatever was done to it before."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon import UnreadableFileError, UnsafeFileError, UsageError
from sesurgeon.cli.asked.options import parse_kwargs
from sesurgeon.models import num_outputs, provenance_of
from sesurgeon.paths import is_within_any
from sesurgeon.surgery import blocks_of, plan_of
from tests.networks import trained_like

SIDE = 64


def named() -> nn.Module:
    return trained_like(sesurgeon.load("torchvision:resnet18"))


def embedded() -> nn.Module:
    return trained_like(timm.create_model("test_resnet"))


def images(model: nn.Module) -> Tensor:
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return noise.to(next(model.parameters()).dtype)


def augmented(model: nn.Module) -> nn.Module:
    return sesurgeon.add_se(model, example_inputs=images(model)).eval()


def there_and_back(model: nn.Module, folder: Path) -> nn.Module:
    sesurgeon.save(model, folder / "net.se.pt")
    return sesurgeon.load(folder / "net.se.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("make", [named, embedded])
def test_in_any_precision(make: Callable[[], nn.Module], when: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = augmented(make().to(dtype)) if when == "before" else augmented(make()).to(dtype)
    again = there_and_back(model.eval(), tmp_path)
    assert next(again.parameters()).dtype == dtype
    assert torch.equal(again(images(again)), model(images(model)))


def test_a_plan_made_in_single_precision_is_applied_and_folded_in_half() -> None:
    plan = sesurgeon.make_plan(named(), images(named()))
    model = sesurgeon.apply_plan(named().bfloat16(), plan).eval()
    folded = sesurgeon.fold_gate_scale(model)
    assert torch.equal(folded(images(folded)), model(images(model)))


def swap_activations(model: nn.Module) -> None:
    blocks = blocks_of(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU) and not is_within_any(path, blocks):
            model.set_submodule(path, nn.GELU())


def widen_the_stem(model: nn.Module) -> None:
    model.get_submodule("conv1").stride = (1, 1)  # type: ignore[assignment]


@pytest.mark.parametrize("change", [swap_activations, widen_the_stem])
@pytest.mark.parametrize("when", ["plain", "before", "after"])
def test_with_layers_that_its_name_does_not_build(
    when: str, change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    model = named()
    if when == "after":
        model = augmented(model)
    change(model)
    if when == "before":
        model = augmented(model)
    again = there_and_back(model.eval(), tmp_path)
    assert torch.equal(again(images(again)), model(images(model)))
    assert (plan_of(again) is None) == (when == "plain")
    assert provenance_of(again).source.kind == "module"


@pytest.mark.parametrize("when", ["plain", "before", "after"])
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet"])
def test_with_a_head_of_the_users_own_hand(name: str, when: str, tmp_path: Path) -> None:
    model = sesurgeon.load(name)
    if when == "after":
        model = augmented(model)
    if name.startswith("timm"):
        model.reset_classifier(5)  # type: ignore[operator]
    else:
        model.set_submodule("fc", nn.Linear(512, 5))
    if when == "before":
        model = augmented(model)
    again = there_and_back(model.eval(), tmp_path)
    assert torch.equal(again(images(again)), model(images(model)))
    assert str(provenance_of(again).source) == name  # which still builds the rest


class Cosine(nn.Linear):
    """A head that is no plain one."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


@pytest.mark.parametrize(
    "head",
    [nn.Identity(), nn.Linear(512, 5, bias=False), nn.Sequential(nn.Dropout(), nn.Linear(512, 5)), Cosine(512, 5)],
)
@pytest.mark.parametrize("classes", [None, 5, 10])
def test_with_a_head_of_another_kind(head: nn.Module, classes: int | None, tmp_path: Path) -> None:
    model = sesurgeon.load("torchvision:resnet18", num_classes=classes)
    model.set_submodule("fc", head)
    sesurgeon.save(model, tmp_path / "net.pt")
    again = sesurgeon.load(tmp_path / "net.pt", trust_pickle=isinstance(head, Cosine))
    assert torch.equal(again(images(again)), model.eval()(images(model)))
    sesurgeon.save(again, tmp_path / "again.pt")
    twice = sesurgeon.load(tmp_path / "again.pt", trust_pickle=isinstance(head, Cosine))
    assert torch.equal(twice(images(twice)), model(images(model)))


def test_with_settings_changed_within_a_head_of_several_parts(tmp_path: Path) -> None:
    model = sesurgeon.load("timm:levit_128s")
    model.get_submodule("head.bn").eps = 0.3  # type: ignore[assignment]
    sesurgeon.save(model, tmp_path / "model.pt")
    again = sesurgeon.load(tmp_path / "model.pt", trust_pickle=True)
    assert again.get_submodule("head.bn").eps == 0.3


def test_with_two_heads_of_which_one_is_replaced(tmp_path: Path) -> None:
    model = sesurgeon.load("timm:levit_128s", num_classes=7)
    again = there_and_back(model, tmp_path)
    x = torch.randn(2, 3, 224, 224)
    assert torch.equal(again(x), model(x))


def test_behind_an_adapter_of_a_base_that_was_changed(tmp_path: Path) -> None:
    base = named()
    base.set_submodule("maxpool", nn.Identity())
    sesurgeon.extract_adapter(augmented(base), tmp_path / "task.adapter.safetensors")
    model = sesurgeon.apply_adapter(base, tmp_path / "task.adapter.safetensors")
    again = there_and_back(model, tmp_path)
    assert torch.equal(again(images(again)), model(images(model)))


class Tied(nn.Module):
    """Two convolutions with one weight, and two norms with one running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.b, self.c = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.c.weight = self.b.weight
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.second.running_mean = self.first.running_mean
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.relu(self.first(self.b(x)))
        x = x + torch.relu(self.second(self.c(x)))
        return self.fc(x.mean((2, 3)))


def test_with_what_is_tied(tmp_path: Path) -> None:
    model = sesurgeon.load("factory:tests.surgery.test_coming_back:Tied")
    sesurgeon.save(augmented(model), tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt", arch="factory:tests.surgery.test_coming_back:Tied")
    assert again.get_parameter("c.weight") is again.get_parameter("b.weight")
    assert again.get_buffer("second.running_mean") is again.get_buffer("first.running_mean")


class Transposed(Tied):
    """The weights of one layer, and the same memory read the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Parameter(torch.randn(4, 4))
        self.back = nn.Parameter(self.there.detach().t())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ self.there @ self.back


def test_with_what_is_tied_and_transposed(tmp_path: Path) -> None:
    model = sesurgeon.load("factory:tests.surgery.test_coming_back:Transposed")
    sesurgeon.save(model, tmp_path / "net.pt")
    again = sesurgeon.load(tmp_path / "net.pt", arch="factory:tests.surgery.test_coming_back:Transposed")
    assert torch.equal(again(images(again)), model.eval()(images(model)))


def test_with_what_was_untied(tmp_path: Path) -> None:
    model = sesurgeon.load("factory:tests.surgery.test_coming_back:Tied")
    model.get_submodule("c").weight = nn.Parameter(torch.randn(8, 8, 3, 3))
    sesurgeon.save(model, tmp_path / "net.pt")
    again = sesurgeon.load(tmp_path / "net.pt", arch="factory:tests.surgery.test_coming_back:Tied")
    assert torch.equal(again(images(again)), model(images(model)))


def test_with_its_own_classifier_or_not_at_all(tmp_path: Path) -> None:
    model = augmented(named())
    sesurgeon.save(model, tmp_path / "net.se.pt")
    outputs = num_outputs(model)
    again = sesurgeon.load(tmp_path / "net.se.pt", num_classes=outputs)
    assert torch.equal(again(images(again)), model(images(model)))
    with pytest.raises(UsageError, match=rf"its network has {outputs} outputs"):
        sesurgeon.load(tmp_path / "net.se.pt", num_classes=outputs + 1)


def test_but_not_as_another_architecture(tmp_path: Path) -> None:
    sesurgeon.save(augmented(named()), tmp_path / "net.se.pt")
    sesurgeon.load(tmp_path / "net.se.pt", arch="torchvision:resnet18")
    with pytest.raises(UsageError, match=r"--arch torchvision:resnet18, not with --arch timm:resnet18"):
        sesurgeon.load(tmp_path / "net.se.pt", arch="timm:resnet18")


def factory(channels: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


def test_arguments_of_code_are_to_be_typed_too(tmp_path: Path) -> None:
    source = sesurgeon.models.Source.parse(f"factory:{__name__}:factory", {"channels": 16})
    sesurgeon.save(sesurgeon.load(source), tmp_path / "net.pt")
    with pytest.raises(UnsafeFileError, match=r"--arch factory:\S+:factory --model-kwargs channels=16"):
        sesurgeon.load(tmp_path / "net.pt", arch=f"factory:{__name__}:factory")
    assert sesurgeon.load(tmp_path / "net.pt", arch=source).get_parameter("0.weight").shape[0] == 16


def fine(eps: float, widths: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, widths[0], 3), nn.BatchNorm2d(widths[0], eps), *factory(widths[0])[1:])


def test_the_options_to_type_are_taken_as_they_are_printed(tmp_path: Path) -> None:
    source = sesurgeon.models.Source.parse(f"factory:{__name__}:fine", {"eps": 1e-5, "widths": (8, 16)})
    sesurgeon.save(sesurgeon.load(source), tmp_path / "net.pt")
    _, arch, *kwargs = shlex.split(source.options)
    typed = sesurgeon.models.Source.parse(arch, parse_kwargs(kwargs[1::2]))
    assert provenance_of(sesurgeon.load(tmp_path / "net.pt", arch=typed)).source == source
    with pytest.raises(UsageError, match=r"is to be loaded with .* eps=1e-05 .*, not with .* eps=0\.1"):
        sesurgeon.load(tmp_path / "net.pt", arch=replace(typed, kwargs={**typed.kwargs, "eps": 0.1}))


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content.pop("state_dict"),
        lambda content: content.update(state_dict=[]),
        lambda content: content.update(module={}),
        lambda content: content.update(sesurgeon=7),
        lambda content: content["sesurgeon"].pop("provenance"),
        lambda content: content["sesurgeon"].update(provenance=7),
        lambda content: content["sesurgeon"].update(plan={}),
        lambda content: content["sesurgeon"]["plan"].update(inputs={"shape": 3}),
    ],
)
def test_or_says_that_it_is_damaged(harm: Callable[[dict[str, object]], object], tmp_path: Path) -> None:
    path = tmp_path / "net.se.pt"
    sesurgeon.save(augmented(named()), path)
    content = torch.load(path, weights_only=True)
    harm(content)
    torch.save(content, path)
    with pytest.raises(UnreadableFileError, match=r"net\.se\.pt is a damaged checkpoint|record of where"):
        sesurgeon.load(path)


def test_what_cannot_be_pickled_is_not_saved(tmp_path: Path) -> None:
    class Local(nn.Sequential):
        pass

    with pytest.raises(UsageError, match=r"This Local has no name that could rebuild it, and cannot be pickled.*Local"):
        sesurgeon.save(Local(nn.Linear(1, 1)), tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []
