"""A torch.export file: the model's bits, any batch, and its metadata."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon.errors import OutputError, UsageError, VerificationError
from sesurgeon.export import export_pt2, pt2
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se

PREPROCESSING = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = add_se(timm.create_model("resnet10t", num_classes=3), torch.randn(2, 3, 32, 32))
    attach_provenance(model, Provenance(Source("module"), ("a", "b", "c"), None, PREPROCESSING, multi_label=True))
    return model


def test_read_again_it_computes_the_same_bits_at_any_batch(network: nn.Module, tmp_path: Path) -> None:
    report = export_pt2(network, tmp_path / "net.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert (report.inputs, report.outputs) == ({"input": (3, 32, 32)}, {"logits": (3,)})
    assert report.size == report.path.stat().st_size
    assert report.parity is not None
    assert report.parity.max_abs == 0
    extra = {"sesurgeon.json": ""}
    read = torch.export.load(report.path, extra_files=extra).module()
    network.eval()
    for size in (1, 5):
        images = torch.randn(size, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(read(images), network(images))
    described = json.loads(extra["sesurgeon.json"])
    assert described["classes"] == ["a", "b", "c"]
    assert described["multi_label"] is True
    assert Preprocessing.from_dict(described["preprocessing"]) == PREPROCESSING


def test_it_runs_without_sesurgeon_and_timm(network: nn.Module, tmp_path: Path) -> None:
    report = export_pt2(network, tmp_path / "net.pt2", verify=False)
    assert report.parity is None
    code = (
        f"import sys, torch; read = torch.export.load({str(report.path)!r}).module();"
        "print(tuple(read(torch.randn(2, 3, 32, 32)).shape));"
        "print([name for name in ('sesurgeon', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n")[:2] == ["(2, 3)", "[]"]


def test_no_source_path_of_this_machine_is_in_the_file(network: nn.Module, tmp_path: Path) -> None:
    report = export_pt2(network, tmp_path / "net.pt2", verify=False)
    with zipfile.ZipFile(report.path) as parts:
        content = b"".join(map(parts.read, parts.namelist()))
    for path in (torch.__file__, timm.__file__, sesurgeon.__file__):
        assert str(Path(path).parent).encode() not in content


class Different(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.conv, self.by = nn.Conv2d(3, 2, 3), by

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * (1 + (self.by if torch.compiler.is_exporting() else 0))


@pytest.mark.parametrize("by", [1, 1e-3])  # also by as little as a wrong operator may be
def test_a_file_that_computes_something_else_is_not_kept(by: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="The file's outputs are up to"):
        export_pt2(Different(by), tmp_path / "net.pt2", example_inputs=torch.randn(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_names_and_files_are_checked_first(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.pt2") as caught:
        export_pt2(network, tmp_path / "net.onnx")
    assert pt2.SUFFIX in str(caught.value)
    (tmp_path / "net.pt2").write_text("mine")
    with pytest.raises(OutputError):
        export_pt2(network, tmp_path / "net.pt2", force=False)
    assert (tmp_path / "net.pt2").read_text() == "mine"
