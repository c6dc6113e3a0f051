"""``sesurgeon plan``, and ``add-se`` by a plan."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from torch import nn
from torchvision.models.resnet import BasicBlock
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.blocks import BlockConfig
from sesurgeon.blocks.config import BlockName, GateName, Init, Squeeze
from sesurgeon.cli.app import app
from sesurgeon.cli.asked.selecting import parse_inputs
from sesurgeon.cli.asked.timing import parse_share
from sesurgeon.errors import UsageError
from sesurgeon.export import LatencyRatio
from sesurgeon.placement import POLICIES
from sesurgeon.surgery import blocks_of

SHAPE = ("--input-shape", "2,3,16,16")
IMAGES = torch.randn(2, 3, 16, 16)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 8), BasicBlock(8, 8),
        nn.Conv2d(8, 16, 1, stride=4), nn.ReLU(), BasicBlock(16, 16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with net.pt in it."""
    monkeypatch.chdir(tmp_path)
    torch.save(small(), tmp_path / "net.pt")
    return tmp_path


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def planned(*words: str) -> list[dict[str, Any]]:
    """The entries of a plan for net.pt."""
    blocks: list[dict[str, Any]] = json.loads(run("plan", "net.pt", *SHAPE, "--json", *words).stdout)["plan"]["blocks"]
    return blocks


def keys(path: Path) -> list[str]:
    return list(sesurgeon.load(path).state_dict())


def test_a_plan_is_shown_and_nothing_is_written(here: Path) -> None:
    lines = run("plan", "net.pt", *SHAPE).stdout.splitlines()
    assert lines[0] == "Sequential from net.pt: 3 blocks"
    # 8 -> 8 -> 8 are 128 multiply-adds, 144 parameters with biases; 8x16x16 additions and products, two to a MAC
    (row,) = [line for line in lines if "1:residual" in line]
    assert row.split() == ["1:residual", "0", "8x16x16", "se", "8→8", "144", "2,176", "2,048", "2,048"]
    assert [line.split()[:2] + line.split()[-2:] for line in lines if "½ MAC" in line] == [
        ["pooling", "additions", "0", "4,352"],
        ["scaling", "products", "0", "4,352"],
    ]
    assert max(map(len, lines)) <= 100
    assert [path.name for path in here.iterdir()] == ["net.pt"]


def test_a_plan_is_written_as_the_library_makes_it(here: Path) -> None:
    words = ("--policy", "standard", "--policy", "conv", "--exclude", "0*", "--rd-channels", "4", "-o", "plan.yaml")
    said = run("plan", "net.pt", *SHAPE, *words).stdout
    assert "Written: plan.yaml. Apply it with: sesurgeon add-se net.pt --plan plan.yaml" in said
    expected = sesurgeon.make_plan(small(), IMAGES, policy=["standard", "conv"], exclude=["0*"], rd_channels=4)
    assert sesurgeon.read_plan("plan.yaml") == expected
    text = (here / "plan.yaml").read_text()
    assert "#     sesurgeon add-se net.pt --plan plan.yaml" in text
    assert "cost: {parameters: 76, macs: 2112, pooling: 2048, scaling: 2048}}  # squeezed to 4" in text


def test_the_command_that_applies_it_can_be_pasted(here: Path) -> None:
    (here / "net.pt").rename("my net.pt")
    said = run("plan", "my net.pt", *SHAPE, "-o", "my $plan.yaml").stdout
    command = "sesurgeon add-se 'my net.pt' --plan 'my $plan.yaml'"
    assert f"Apply it with: {command}" in " ".join(said.split())
    assert f"#     {command}" in (here / "my $plan.yaml").read_text().splitlines()


def test_json_is_alone_on_stdout_and_adds_up(here: Path) -> None:
    data = json.loads(run("plan", "net.pt", *SHAPE, "-o", "plan.yaml", "--json").stdout)
    assert data["output"] == "plan.yaml"
    assert [block["path"] for block in data["blocks"]] == ["1.se", "2.se", "5.se"]
    for number in ("parameters", "macs", "pooling", "scaling"):
        assert data["before"][number] + sum(block[number] for block in data["blocks"]) == data["after"][number]
    assert data["plan"]["blocks"][0] == {"site": "1:residual", "attribute": "se", "channels": 8, "block": "se"}


def test_the_same_plan_gives_the_same_keys_however_it_is_applied(here: Path) -> None:
    choices = ("--policy", "standard", "--policy", "inner", "--block", "ge")
    run("plan", "net.pt", *SHAPE, *choices, "-o", "plan.yaml")
    run("add-se", "net.pt", *SHAPE, *choices, "-o", "direct.pt")
    said = run("add-se", "net.pt", "--plan", "plan.yaml", "-o", "planned.pt", "--plan-out", "again.yaml").stdout
    assert "Written: planned.pt\nWritten: again.yaml\n" in said
    data = yaml.safe_load((here / "plan.yaml").read_text())
    random.Random(0).shuffle(data["blocks"])
    (here / "shuffled.yaml").write_text(yaml.safe_dump(data))
    run("add-se", "net.pt", "--plan", "shuffled.yaml", "-o", "shuffled.pt")
    in_python = sesurgeon.apply_plan(small(), sesurgeon.read_plan("plan.yaml"))
    expected = list(in_python.state_dict())
    assert len(blocks_of(in_python)) == 6
    assert keys(here / "direct.pt") == keys(here / "planned.pt") == keys(here / "shuffled.pt") == expected
    assert (here / "again.yaml").read_text().split("\n", 2)[2] == (here / "plan.yaml").read_text().split("\n", 2)[2]


def test_a_plan_edited_by_hand_is_applied_and_proved(here: Path) -> None:
    (here / "plan.yaml").write_text("version: 2\nblocks:\n- {site: '5:residual', block: eca}\n- {site: '1:residual'}\n")
    data = json.loads(run("add-se", "net.pt", "--plan", "plan.yaml", *SHAPE, "--json").stdout)
    assert [(block["path"], block["settings"]) for block in data["blocks"]] == [
        ("1.se", {"block": "se"}),
        ("5.se", {"block": "eca"}),
    ]
    assert data["proof"] == {"in_eval": True, "in_train": True, "note": ""}
    again, original = sesurgeon.load(here / "net.se.pt"), sesurgeon.load(here / "net.pt")
    assert torch.equal(again(IMAGES), original(IMAGES))


def test_a_dry_run_writes_no_plan_either(here: Path) -> None:
    run("add-se", "net.pt", *SHAPE, "--dry-run", "--plan-out", "plan.yaml")
    assert [path.name for path in here.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(("words", "code", "messages"), [
    (("add-se", "net.pt", "--plan", "bad.yaml", *SHAPE), 2,
     ["bad.yaml cannot be used:\n", "line 3: unknown key", "line 3: there is no site a", "line 4: ",
      "line 4: there is no site b", "line 5: attribute must", "line 5: 1:residual has 8 channels, not 9"]),
    (("add-se", "net.pt", "--plan", "torn.yaml"), 2, ["torn.yaml is not YAML: line 3: "]),
    (("add-se", "net.pt", "--plan", "no.yaml"), 3, ["There is no plan no.yaml", "sesurgeon plan MODEL -o plan.yaml"]),
    (("add-se", "net.pt", "--plan", "net.pt"), 3, ["net.pt is not a plan"]),
    (("add-se", "net.pt", "--plan", "misfit.yaml"), 2,
     ["does not fit this Sequential:\n", "line 4: there is no site 9:residual", "line 5: 1:residual has 8 channels"]),
    (("add-se", "net.pt", "--plan", "other.yaml"), 2,
     ["another architecture than this Sequential", "made for the class ResNet", "parts only here: 0, 1, 2"]),
    (("add-se", "net.pt", "--plan", "misfit.yaml", "--policy", "conv", "--no-bias", "--min-channels", "1"), 2,
     ["--policy, --min-channels, --no-bias", "Leave these out"]),
    (("add-se", "net.pt", "--plan", "good.yaml", "--input-shape", "2,5,16,16"), 4, ["does not run in eval mode"]),
    (("add-se", "net.pt", "--plan-out", "net.se.pt"), 2, ["--plan-out net.se.pt"]),
    (("add-se", "net.pt", "--plan-out", "net.pt", "--force"), 2, ["net.pt is the model itself"]),
    (("add-se", "net.pt", "--plan-out", "good.yaml"), 1, ["good.yaml exists already"]),
    (("add-se", "net.pt", "--plan-out", "nowhere/plan.yaml"), 1, ["nowhere"]),
    (("plan", "net.pt", "-o", "good.yaml"), 1, ["good.yaml exists already"]),
    (("plan", "net.pt", *SHAPE, "-o", "new.yaml", "--include", "9:*"), 4, ["No site is left after --include 9:*"]),
    (("plan", "net.pt", "-o", "new.yaml", "--policy", "everywhere"), 2, ["everywhere", "standard, pre, post"]),
    (("plan", "net.pt", "-o", "new.yaml", "--block", "sea"), 2, ["'sea' is not one of"]),
    (("plan", "net.pt", "-o", "new.yaml", "--block", "eca", "--rd-ratio", "0.25"), 2, ["rd_ratio"]),
    (("plan", "net.pt", "-o", "new.yaml", "--kernel", "3,x"), 2, ["--kernel 3,x", "Write --kernel 3,1x7"]),
    (("plan", "net.pt", "-o", "new.yaml", "--every", "0"), 2, ["every (=0)"]),
])  # fmt: skip
def test_bad_input_has_one_clear_message_and_its_exit_code(
    here: Path, words: tuple[str, ...], code: int, messages: list[str]
) -> None:
    (here / "good.yaml").write_text("version: 2\nblocks:\n- {site: '1:residual'}\n")
    (here / "bad.yaml").write_text(
        "version: 2\nblocks:\n- {site: a, typo: 1}\n- {site: b, rd_ratio: 2}\n"
        "- {site: '1:residual', attribute: a.b, channels: 9}\n"
    )
    (here / "torn.yaml").write_text("version: 2\nblocks: [\n")
    (here / "misfit.yaml").write_text(
        "version: 2\ninputs: [{shape: [2, 3, 16, 16], dtype: float32}]\nblocks:\n"
        "- {site: '9:residual'}\n- {site: '1:residual', channels: 9}\n"
    )
    (here / "other.yaml").write_text(
        "version: 2\narchitecture: {class: ResNet, fingerprint: c477dda9b3f55152, parts: {conv1: df252518}}\n"
        "blocks:\n- {site: '1:residual'}\n"
    )
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    result = run(*words, code=code)
    for message in messages:
        assert message in result.stderr
    assert result.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before


@pytest.mark.parametrize(("words", "sites"), [
    (("--policy", "inner", "--stages", "2"), ["5:conv"]),
    (("--skip-last-stage",), ["1:residual", "2:residual"]),
    (("--every", "2"), ["1:residual", "5:residual"]),
    (("--min-channels", "16"), ["5:residual"]),
    (("--policy", "conv", "--kernel", "1"), ["4:conv"]),
    (("--policy", "conv", "--kernel", "3x3", "--include", "[12]:*"), ["1:conv", "1:conv#2", "2:conv", "2:conv#2"]),
    (("--policy", "identity", "--exclude", "2", "--exclude", "5"), ["1:shortcut"]),
])  # fmt: skip
def test_options_choose_sites(here: Path, words: tuple[str, ...], sites: list[str]) -> None:
    assert [entry["site"] for entry in planned(*words)] == sites


@pytest.mark.parametrize(("words", "config"), [
    ((), BlockConfig()),
    (("--no-bias", "--squeeze", "max", "--gate", "hard-sigmoid"),
     BlockConfig(bias=False, squeeze="max", gate="hard-sigmoid")),
    (("--block", "ge", "--extent", "2"), BlockConfig("ge", extent=2)),
    (("--rd-ratio", "0.5", "--rd-divisor", "2", "--init", "random"), BlockConfig("se", 0.5, None, 2, "random")),
])  # fmt: skip
def test_options_describe_the_block(here: Path, words: tuple[str, ...], config: BlockConfig) -> None:
    for entry in planned(*words):
        assert {key: entry[key] for key in entry if key not in ("site", "attribute", "channels")} == config.to_dict()


def test_inspect_takes_the_same_options(here: Path) -> None:
    words = ("--policy", "inner", "--block", "eca", "--exclude", "5:*")
    said = run("inspect", "net.pt", *SHAPE, *words).stdout
    assert "What add-se would do (policy inner, 2 blocks):" in said
    data = json.loads(run("inspect", "net.pt", *SHAPE, *words, "--json").stdout)
    chosen = [site for site in data["sites"] if site["chosen"]]
    assert [site["id"] for site in chosen] == ["1:conv", "2:conv"]
    assert [site["cost"]["parameters"] for site in chosen] == [3, 3]
    assert data["after"]["parameters"] == data["parameters"] + 6


def test_inspect_promises_nothing_for_a_network_with_blocks(here: Path) -> None:
    assert run("add-se", "net.pt", *SHAPE).exit_code == 0
    words = ("inspect", "net.se.pt", "--policy", "conv", "--latency")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert "What add-se would do" not in result.stdout
    assert "add-se wants a network without blocks: remove-se" in result.stdout
    data = json.loads(run(*words, "--json").stdout)
    assert (data["after"], data["latency"], len(data["inserted_blocks"])) == (None, [], 3)


@pytest.mark.parametrize("verb", ["inspect", "plan", "add-se"])
def test_latency_is_measured_between_the_network_and_the_augmented_one(
    here: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(base: nn.Module, augmented: nn.Module, images: Any, progress: Any) -> list[LatencyRatio]:
        assert (len(blocks_of(base)), len(blocks_of(augmented))) == (0, 3)
        assert [tuple(image.shape) for image in images] == [(2, 3, 16, 16)]
        progress("torch, batch 1", 1, 2)
        return [
            LatencyRatio("torch", 1, 2.0, 2.5, 1.25, (1.2, 1.3)),
            LatencyRatio("onnxruntime", 1, failure="no such operator"),
        ]

    monkeypatch.setattr("sesurgeon.export.measure_latency", measure)
    said = run(verb, "net.pt", *SHAPE, "--latency").stdout
    rows = [line.split() for line in said.splitlines()]
    assert ["torch", "1", "2.00", "ms", "2.50", "ms", "1.250", "1.200", "to", "1.300"] in rows
    assert "onnxruntime: no such operator" in said
    data = json.loads(run(verb, "net.pt", *SHAPE, "--latency", "--json", *(["--force"] * (verb == "add-se"))).stdout)
    assert data["latency"][0]["ratio"] == 1.25


def test_the_help_names_what_there_is() -> None:
    said = CliRunner().invoke(app, ["plan", "--help"], env={"COLUMNS": "200"}).stdout
    words = re.findall(r"[\w-]+", said)
    for kind in (BlockName, GateName, Squeeze, Init):
        assert set(get_args(kind)) <= set(words)
    assert set(POLICIES) <= set(words)


def test_a_bound_on_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter((1.5, 1.02))

    def made_up(base: nn.Module, augmented: nn.Module, *_: Any, **__: Any) -> list[LatencyRatio]:
        ratio = next(ratios)
        return [LatencyRatio("torch", 2, 0.001, 0.001 * ratio, ratio, (ratio, ratio))]

    monkeypatch.setattr("sesurgeon.export.cost.budget.measure_latency", made_up)
    told = json.loads(run("plan", "net.pt", *SHAPE, "--max-latency", "5%", "-o", "plan.yaml", "--json").stdout)
    assert told["latency"][0]["ratio"] == 1.02
    assert 1 <= len(told["blocks"]) == len(yaml.safe_load((here / "plan.yaml").read_text())["blocks"]) < 3
    assert "to keep to the bound on time" in told["left_alone"][-1]["reason"]
    for wrong in ("much", "-1%", "nan"):
        assert "is not a share" in run("plan", "net.pt", "--max-latency", wrong, code=2).stderr


def test_a_share_above_all_needs_its_per_cent_sign() -> None:
    assert parse_share("5%") == parse_share("0.05") == 0.05
    assert parse_share("150%") == 1.5
    for text, either in {"5": "5% or 500%", "1": "1% or 100%", "1.5": "1.5% or 150%"}.items():
        with pytest.raises(UsageError, match=either):
            parse_share(text)


def test_the_command_that_is_printed_applies_it(here: Path) -> None:
    (here / "own_small.py").write_text(
        "from tests.cli.test_plan_verb import small\n\n\ndef make(depth):\n    return small()\n"
    )
    torch.save(small().state_dict(), "own.pth")
    how = ("--arch", "factory:own_small:make", "--model-kwargs", "depth=2")
    shown = run("plan", "own.pth", *how, *SHAPE, "-o", "plan.yaml").stdout
    command = "sesurgeon add-se own.pth --arch factory:own_small:make --model-kwargs depth=2 --plan plan.yaml"
    assert f"Apply it with: {command}" in " ".join(shown.split())
    assert f"#     {command}" in Path("plan.yaml").read_text()
    run(*command.split()[1:], "-o", "own.se.pt")
    assert len(blocks_of(sesurgeon.load("own.se.pt", trust_pickle=True))) == 3


def test_a_plan_does_not_replace_its_network(here: Path) -> None:
    before = (here / "net.pt").read_bytes()
    assert "is the model itself" in run("plan", "net.pt", *SHAPE, "-o", "net.pt", "--force", code=2).stderr
    assert (here / "net.pt").read_bytes() == before


def test_stage_0_is_one(here: Path) -> None:
    assert [entry["site"] for entry in planned("--stages", "1,0")] == ["1:residual", "2:residual"]
    assert "must be a list of numbers from 0" in run("plan", "net.pt", "--stages", "-1", code=2).stderr


@pytest.mark.parametrize(("shapes", "expected"), [
    (["3,16,16"], [(2, 3, 16, 16)]),
    (["3,16,16", "1,16,16"], [(2, 3, 16, 16), (2, 1, 16, 16)]),  # the first says whether there is a batch
    (["4,3,16,16", "4,77,8"], [(4, 3, 16, 16), (4, 77, 8)]),
    (["3,8,8,8"], [(3, 8, 8, 8)]),
])  # fmt: skip
def test_a_single_image_gets_a_batch(shapes: list[str], expected: list[tuple[int, ...]]) -> None:
    assert [tuple(one.shape) for one in parse_inputs(shapes, small())] == expected


@pytest.mark.parametrize(("convolution", "shape", "expected"), [
    (nn.Conv1d(1, 2, 3), "1,1,64", (1, 1, 64)),
    (nn.Conv1d(1, 2, 3), "1,64", (2, 1, 64)),
    (nn.Conv3d(1, 2, 3), "1,12,16,20", (2, 1, 12, 16, 20)),
    (nn.Linear(3, 2), "3,16,16", (3, 16, 16)),
])  # fmt: skip
def test_what_a_single_image_is_depends_on_the_dimensions(
    convolution: nn.Module, shape: str, expected: tuple[int, ...]
) -> None:
    (given,) = parse_inputs([shape], convolution)
    assert given.shape == expected
