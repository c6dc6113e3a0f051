"""A command on a large file holds its weights once."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

# A process of its own, because a fresh one counts what its parent had when it was made.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(*command: str) -> int:
    """The largest resident size of a Python process, in bytes."""
    run = [sys.executable, "-c", PEAK, sys.executable, *command]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others may keep what is freed")
def test_add_se_holds_one_copy_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "wide.pth"
    model = torchvision.models.wide_resnet101_2()
    torch.save(model.state_dict(), file)  # half a gigabyte
    del model
    imports = peak("-c", "import torchvision, sesurgeon.surgery, sesurgeon.cli.verbs.add_se")
    command = ["add-se", str(file), "--arch", "torchvision:wide_resnet101_2", "--input-shape", "2,3,64,64"]
    above = peak("-m", "sesurgeon", *command, "--rd-ratio", "0.01") - imports
    assert above < 1.5 * file.stat().st_size  # a second copy would make it two
    assert (tmp_path / "wide.se.pt").stat().st_size > file.stat().st_size
