"""A disk that takes no more: each writer says so in its own way, and all of them end in an OutputError."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sesurgeon.errors import OutputError
from sesurgeon.export import export_onnx, export_plain, export_pt2
from sesurgeon.export.precision import simplify
from sesurgeon.surgery import extract_adapter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")

IMAGES = torch.zeros(2, 3, 16, 16)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may become larger than so many bytes."""
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.fixture
def net() -> nn.Module:
    body = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(16, 10)).eval()


WRITERS: dict[str, Callable[[nn.Module, Path], object]] = {
    "net.onnx": lambda net, path: export_onnx(net, path, example_inputs=IMAGES),
    "net.pt2": lambda net, path: export_pt2(net, path, example_inputs=IMAGES),
    "net.pth": export_plain,
    "net.safetensors": export_plain,
    "net.adapter.safetensors": extract_adapter,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("missing", [100, 5000])  # bytes: torch's writer fails in its last step, or before
def test_a_full_disk_is_told_and_leaves_nothing(net: nn.Module, name: str, missing: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](net, path)
    size = path.stat().st_size
    path.unlink()
    with room_for(size - missing), pytest.raises(OutputError, match=rf"Writing .*{name} failed"):
        WRITERS[name](net, path)
    assert list(tmp_path.iterdir()) == []


def test_so_it_is_where_a_file_is_simplified(net: nn.Module, tmp_path: Path) -> None:
    path = export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGES).path
    with room_for(100), pytest.raises(OSError, match="File too large"):
        simplify(path)
