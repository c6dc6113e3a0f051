"""Networks of 49 families of torchvision and timm, held to all that benchmarks/zoo.py checks.

The lightest of each of these families; those that take longer run with ``pytest -m slow``. One of every family runs
in CI beside the tests (``python benchmarks/zoo.py --one-per-family``).
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# name, blocks of the policy "standard"
LIGHT = [
    ("torchvision:squeezenet1_1", 8), ("torchvision:mnasnet0_5", 16), ("torchvision:shufflenet_v2_x0_5", 16),
    ("timm:test_convnext2", 4), ("timm:test_efficientnet_gn", 11), ("timm:test_mambaout", 6), ("timm:test_coatnet", 6),
    ("timm:test_resnet", 4), ("timm:lcnet_150", 13), ("timm:fasternet_t0", 13), ("timm:starnet_s050", 6),
    ("timm:ese_vovnet19b_slim_dw", 18), ("timm:cs3darknet_focus_s", 9), ("timm:hardcorenas_a", 2),
    ("timm:dla46_c", 12), ("timm:resnetv2_18", 8), ("timm:regnetx_002", 13), ("timm:edgenext_xx_small", 12),
    ("timm:cspnext_tiny", 4), ("timm:lambda_resnet26t", 8), ("timm:repvgg_a0", 22), ("timm:cpubone_nano", 12),
    ("timm:dpn48b", 16), ("timm:efficientvim_m1", 28), ("timm:efficientvit_b0", 15), ("timm:ghostnet_100", 9),
    ("timm:hgnetv2_b1", 6), ("timm:iformer_t", 26), ("timm:inception_next_atto", 12), ("timm:lcnetv2_small", 7),
    ("timm:levit_conv_128s", 20), ("timm:poolformer_s12", 12), ("timm:mobilevitv2_075", 24), ("timm:pvt_v2_b0", 14),
    ("timm:repghostnet_058", 9), ("timm:resnest14d", 4), ("timm:rexnetr_100", 3), ("timm:swiftformer_xs", 20),
    ("timm:xcit_nano_12_p16_384", 12), ("torchvision:mobilenet_v2", 17), ("torchvision:resnet18", 8),
]  # fmt: skip
HEAVIER = [
    ("timm:crossvit_9_dagger_240", 4), ("timm:efficientformerv2_s0", 21), ("timm:efficientvit_m3", 38),
    ("timm:fastvit_t8", 20), ("timm:repvit_m0_9", 26), ("timm:shvit_s1", 39), ("timm:tiny_vit_5m_224", 12),
    ("timm:visformer_tiny", 23),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "blocks"), LIGHT + [pytest.param(name, blocks, marks=pytest.mark.slow) for name, blocks in HEAVIER]
)
def test_a_network_of_the_family(name: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sweep, networks = importlib.import_module("zoo.sweep"), importlib.import_module("zoo.networks")
    library, _, architecture = name.partition(":")
    task = sweep.Task(networks.Network(library, architecture, ""), -1, ("standard", "inner"), False)
    record = sweep.examine(task)
    assert record["status"] == "ok", record["reason"]
    assert record["finite"]
    assert record["policies"]["standard"]["blocks"] == blocks
