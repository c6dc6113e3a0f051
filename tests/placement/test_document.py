"""The plan as a file: written, edited by hand, read again, with all that can be wrong in it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torchvision.ops import SqueezeExcitation

from sesurgeon import UnreadableFileError, UsageError, apply_plan, make_plan, read_plan, write_plan
from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import survey
from sesurgeon.placement import Entry, Plan, plan_costs, plan_from_data, plan_to_data, plan_to_yaml
from sesurgeon.surgery import blocks_of, operate_by, plan_of
from tests.networks import OddNet, PlainNet

SMALL = torch.randn(2, 3, 16, 16)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(OddNet(), SMALL, policy=["standard", "conv"], rd_ratio=0.25)


def read(folder: Path, text: str) -> Plan:
    file = folder / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    return read_plan(file)


def problems(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, text)
    assert str(folder / "plan.yaml") in caught.value.message
    return caught.value.message


def test_a_plan_comes_back_from_its_file(plan: Plan, tmp_path: Path) -> None:
    costs = plan_costs(plan, survey(OddNet(), SMALL))
    write_plan(plan, tmp_path / "plan.yaml", costs=costs, name="model.pt")
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert plan_from_data(plan_to_data(plan)) == plan


def test_a_file_is_read_by_people(plan: Plan) -> None:
    one = replace(plan, entries=plan.entries[:1])
    costs = plan_costs(one, survey(OddNet(), SMALL))
    lines = plan_to_yaml(one, costs=costs, name="model.pt", file="my.yaml").splitlines()
    assert lines[0] == "# A plan of sesurgeon for OddNet: which block goes where. Apply it with"
    assert lines[1] == "#     sesurgeon add-se model.pt --plan my.yaml"
    at = lines.index("blocks:")
    assert lines[at - 2 : at] == ["policy: [standard, conv]", "inputs: [{shape: [2, 3, 16, 16], dtype: float32}]"]
    assert lines[at + 1 :] == [
        "  - {site: 'shared:residual', attribute: se, channels: 8, block: se, rd_ratio: 0.25,",
        "     cost: {parameters: 144, macs: 1280, pooling: 1024, scaling: 1024}}  # squeezed to 8",
    ]  # 8x8 places, 8 -> 8 -> 8, run twice: 2 * (512/2 + 512/2 + 128)
    assert max(map(len, lines)) <= 100


def test_every_setting_survives(tmp_path: Path) -> None:
    configs = [
        BlockConfig(rd_channels=4, squeeze="max", gate="hard-sigmoid", bias=False, init="random"),
        BlockConfig("ge", extent=2, rd_divisor=4),
        BlockConfig("eca", gate="tanh"),
    ]
    entries = tuple(Entry(f"layer{n}:residual", "se", 8, config) for n, config in enumerate(configs))
    plan = Plan(None, (), None, entries)
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan


def test_only_the_site_has_to_be_there(tmp_path: Path) -> None:
    plan = read(tmp_path, "version: 2\nblocks:\n- {site: 'last:residual'}\n- site: shared:residual\n  block: eca\n")
    assert plan == Plan(None, (), None, (Entry("last:residual"), Entry("shared:residual", config=BlockConfig("eca"))))
    assert [entry.line for entry in plan.entries] == [3, 4]
    augmented = apply_plan(OddNet(), replace(plan, inputs=[{"shape": [2, 3, 16, 16], "dtype": "float32"}]))
    done = plan_of(augmented)
    assert done is not None
    assert done.architecture is not None
    assert [(entry.site, entry.attribute, entry.channels) for entry in done.entries] == [
        ("shared:residual", "se", 8),
        ("last:residual", "se", 22),
    ]


def test_entries_inherit_the_defaults_unless_they_name_another_block(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        "version: 2\ndefaults: {rd_ratio: 0.5, gate: tanh}\nblocks:\n"
        "- {site: a}\n- {site: b, rd_ratio: 0.25}\n- {site: c, block: eca}\n- {site: d, block: se, gate: null}\n",
    )
    assert [entry.config for entry in plan.entries] == [
        BlockConfig(rd_ratio=0.5, gate="tanh"),
        BlockConfig(rd_ratio=0.25, gate="tanh"),
        BlockConfig("eca"),
        BlockConfig(rd_ratio=0.5),
    ]


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        """\
version: 2
polices: [standard]
inputs: [{shape: [2, -3], dtype: floaty}]
blocks:
- {site: 'a:residual', chanels: 8}
- {site: 'b:residual', channels: many, attribute: 0}
- {site: 'c:residual',
   rd_ratio: 7, gate: linear}
- {site: 'd:residual', extent: 2}
- {channels: 3}
- just this
- {site: 'a:residual'}
- {site: 'e:residual', squeeze: [avg, max]}
""",
    )
    assert told.splitlines()[1:] == [
        "  line 2: unknown key 'polices': did you mean policy?",
        "  line 3: shape must be a list of sizes, as [2, 3, 224, 224], not [2, -3]",
        "  line 3: dtype must be one of torch's, as float32, not 'floaty'",
        "  line 5: unknown key 'chanels': did you mean channels?",
        "  line 6: attribute must be a name, not 0",
        "  line 6: channels must be a number from 1 on, not 'many'",
        "  line 7: The block's settings are wrong: gate (='linear') must be one of: sigmoid, hard-sigmoid, tanh; "
        "rd_ratio (=7) must be above 0 and at most 1.",
        "  line 9: The block's settings are wrong: extent (=2) is no setting of block 'se', which has rd_ratio, "
        "rd_channels, rd_divisor, squeeze, bias.",
        "  line 10: site must be the id of a site",
        "  line 11: this must be of the form {key: value}, not 'just this'",
        "  line 12: a:residual is there twice, first on line 5",
        "  line 13: squeeze must be a single value, not ['avg', 'max']",
    ]


@pytest.mark.parametrize(("text", "words"), [
    ("", "not a plan"),
    ("just words\n", "not a plan"),
    ("blocks: []\n", "has no version"),
    ("version: 3\nblocks: []\n", "has version 3; this sesurgeon reads version 2"),
    ("version: 2\n", "blocks must be a list"),
    ("version: 2\nblocks:\n", "line 2: blocks must be a list"),
    ("version: 2\nblocks: []\n", "line 2: blocks must be a list"),
    ("version: 2\nblocks:\n- {site: a\n", "is not YAML: line 4: "),
    ("version: 2\nblocks:\n- site: a: b\n", "is not YAML: line 3: mapping values are not allowed here"),
    ("version: 2\n\tblocks: []\n", "is not YAML: line 2"),
    ("version: 2\n--- \nversion: 2\n", "is not YAML: line 2"),
    ("version: 2\nblocks: [\x00]\n", "is not YAML: ReaderError"),
    ("version: 2\nblocks: !!python/object:os.system {}\n", "line 2: blocks must be a list"),
    ("version: 2\nblocks:\n- site: !!python/name:os.system a\n", "line 3: could not determine a constructor"),
    ("version: 2\nblocks:\n- &one {site: a}\n- *one\n", "line 4: the alias *one is not read"),
    ("version: 2\nblocks: " + "[" * 60 + "]" * 60, "line 2: more than 50 brackets"),
    ("version: 2\nversion: 2\nblocks:\n- {site: a}\n", "line 2: the key 'version' is there twice"),
    ("version: 2\nblocks:\n- {site: a, [b]: c}\n", "line 3: a key must be a word"),
    ("version: 2\nblocks:\n- {site: a, rd_ratio: 2026-02-30}\n", "line 3: '2026-02-30'"),
    ("version: 2\npolicy: {a: 1}\nblocks:\n- {site: a}\n", "line 2: policy must be a list of names"),
    ("version: 2\ninputs: 3\nblocks:\n- {site: a}\n", "line 2: inputs must be a list"),
    ("version: 2\ninputs: [{shape: 3}]\nblocks:\n- {site: a}\n", "line 2: an argument must be {shape"),
    ("version: 2\narchitecture: ResNet\nblocks:\n- {site: a}\n", "line 2: this must be of the form {key: value}"),
    ("version: 2\narchitecture: {class: A}\nblocks:\n- {site: a}\n", "line 2: fingerprint must be a text, not None"),
    ("version: 2\ndefaults: {rd_ratio: 2}\nblocks:\n- {site: a}\n- {site: b}\n", "cannot be read: line 2: The block's"),
    ("version: 2\nblocks:\n- {site: a, block: sea}\n", "line 3: The block's settings are wrong: block (='sea')"),
    ("version: 2\nblocks:\n- {site: a, attribute: a.b}\n", "line 3: attribute must be a name"),
    ("version: 2\nblocks:\n- {site: a, channels: true}\n", "line 3: channels must be a number"),
    ("version: 2\nblocks:\n- {site: a}\n- {site: b, attribute: class}\n", "line 4: attribute must be a name, not 'cl"),
    ("version: 2\nblocks:\n- {site: a, attribute: self}\n", "line 3: attribute must be a name, not 'self'"),
    ("version: 2\nblocks:\n- {site: a, attribute: \ufb01ne}\n", r"line 3: attribute must be a name, not '\ufb01ne'"),
    ("version: 2\ndefaults: {bias: !!bool foo}\nblocks:\n- {site: a}\n", "line 2: 'foo' is no bool"),
    ("version: 2\npolicy: [!!timestamp foo]\nblocks:\n- {site: a}\n", "line 2: 'foo' is no timestamp"),
    ("version: 2\nblocks:\n- {site: a, channels: !!int ''}\n", "line 3: '' is no int"),
    ("version: 2\nblocks:\n- {site: a, rd_ratio: !!float ''}\n", "line 3: '' is no float"),
    ("version: 2\nblocks:\n- {site: a, rd_channels: 1000000000000}\n", "line 3: The block's settings are wrong: rd_ch"),
    ("version: 2\nblocks:\n- {site: a, rd_divisor: 1000000000000}\n", "at least 1 and at most 65536"),
    ("version: 2\nblocks:\n- {site: a, block: ge, extent: 1000000000000}\n", "0 or an even number, at most 65536"),
    ("version: 2\ninputs: [{shape: [0, 3], dtype: int64}]\nblocks:\n- {site: a}\n", "line 2: shape must be a list"),
    ("version: 2\ninputs: [{shape: [1000000, 1000000], dtype: int64}]\n", "line 2: shape must be of at most 1,073,"),
    ("version: 2\ninputs: [{shape: [99999999999999999999], dtype: int64}]\n", "line 2: shape must be of at most"),
    ("version: 2\ninputs: [{shape: [2, 3], dtype: quint8}]\n", "line 2: dtype must be one of torch's"),
    ("version: 2\ninputs: [{shape: [2, 3], dtype: int64, values: [1, 2]}]\n", "line 2: values must be one number"),
    ("version: 2\ninputs: [{shape: [2], dtype: uint8, values: [1, 300]}]\n", "line 2: values must be one number"),
    ("version: 2\ninputs: [{shape: [2], dtype: int64, values: [a, b]}]\n", "line 2: values must be one number"),
    ("version: 2\ninputs: [{shape: [2], dtype: float32, low: 1, high: 0}]\n", "line 2: low and high must be the ends"),
    ("version: 2\ninputs: [{shape: [2], dtype: int64, low: 0, high: 1}]\n", "line 2: low and high must be the ends"),
])  # fmt: skip
def test_what_is_no_plan_is_a_usage_error_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems(tmp_path, text)


@pytest.mark.parametrize("content", [None, "folder", b"\xff\xfe\x00\x93PNG"])
def test_what_is_no_text_is_an_unreadable_file(tmp_path: Path, content: object) -> None:
    path = tmp_path / "plan.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"plan\.yaml"):
        read_plan(path)


@pytest.mark.parametrize("named", [True, False], ids=["attributes given", "attributes open"])
def test_the_keys_do_not_depend_on_the_order_in_the_file(plan: Plan, tmp_path: Path, named: bool) -> None:
    model = OddNet()
    given = plan if named else replace(plan, entries=tuple(replace(entry, attribute="") for entry in plan.entries))
    data = yaml.safe_load(plan_to_yaml(given))
    shuffled = data | {"blocks": random.Random(0).sample(data["blocks"], len(data["blocks"]))}
    assert shuffled["blocks"] != data["blocks"]
    augmented = apply_plan(model, given)
    assert len(blocks_of(augmented)) == len(plan.entries) > 8
    again = apply_plan(model, read(tmp_path, yaml.safe_dump(shuffled)))
    assert list(again.state_dict()) == list(augmented.state_dict())
    assert plan_of(again) == plan_of(augmented)


def test_settings_of_one_entry_change_that_block_alone(tmp_path: Path) -> None:
    model = PlainNet()
    text = plan_to_yaml(make_plan(model, SMALL))
    changed = text.replace("channels: 16, block: se", "channels: 16, block: se, rd_channels: 3")
    surgery = operate_by(read(tmp_path, changed), survey(model, SMALL))
    state = surgery.model.state_dict()
    assert surgery.proof.in_eval
    assert surgery.proof.in_train
    assert [tuple(value.shape) for key, value in state.items() if key.endswith("fc1.weight")] == [
        (8, 8, 1, 1),
        (3, 16, 1, 1),
    ]


def test_a_site_with_attention_gets_a_second_block_and_a_warning() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.gate = SqueezeExcitation(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return x + self.gate(self.conv(x))

    found = survey(Gated(), SMALL)
    (site,) = [site for site in found.sites if site.kind == "residual"]
    assert site.attention is not None
    surgery = operate_by(Plan(None, (), None, (Entry(site.id),)), found)
    assert surgery.proof.in_train
    assert surgery.plan.warnings == (
        f"{site.id} has attention already: {site.attention}. It gets a block beside it, as the plan says.",
    )
