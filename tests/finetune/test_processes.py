"""What several processes keep apart, and what they have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

import sesurgeon

ROOT = Path(sesurgeon.__file__).parents[1]

STATISTICS = """
import os

import torch
from accelerate import Accelerator
from torch import nn

from sesurgeon.finetune.training.processes import average_buffers, wrap_model

accelerator = Accelerator(cpu=True)
net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
wrapped = wrap_model(net, accelerator)
for _ in range(50):
    wrapped(torch.full((4, 2), float(accelerator.process_index))).sum().backward()
average_buffers(accelerator, net, ["0.running_mean"])
assert torch.allclose(net[0].running_mean, torch.full((2,), 0.5), atol=0.01), net[0].running_mean
torch.distributed.barrier()
os._exit(0)  # threads of gloo's may abort a process that leaves in order
"""

STOPPED = """
import contextlib
import sys

import torch

import sesurgeon
from sesurgeon.finetune import FinetuneConfig
from sesurgeon.finetune.trainer import Trainer

torch.set_num_threads(1)
folder, name, epoch, update = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = FinetuneConfig(
    epochs=2, freeze_epochs=0, batch_size=2, lr=0.02, model_ema=True, model_ema_decay=0.9, checkpoint_every=1,
    workers=0, device="cpu", log_with=(), output=f"{folder}/runs", name=name,
)
write = Trainer._write


def write_and_stop(self, training, position, tally):
    write(self, training, position, tally)
    if (position.epoch, position.update) == (epoch, update):
        raise KeyboardInterrupt


Trainer._write = write_and_stop
with contextlib.suppress(KeyboardInterrupt):
    sesurgeon.finetune(sesurgeon.load(f"{folder}/net.se.pt"), f"{folder}/data", config)
Trainer._write = write
torch.distributed.barrier()
if update > 0:
    last = sesurgeon.load(f"{folder}/net.se.pt")
    sesurgeon.finetune(last, f"{folder}/data", config, resume=f"{folder}/runs/{name}")
torch.distributed.destroy_process_group()
"""


def in_two_processes(script: Path, code: str, *arguments: str) -> None:
    script.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [*launcher, str(script), *arguments], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_statistics_are_the_mean_over_processes(tmp_path: Path) -> None:
    in_two_processes(tmp_path / "averaging.py", STATISTICS)


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, split_folder: Path) -> None:
    """With BatchNorm that learns, and an average: stopped within an epoch, and at its last update."""
    body = [nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(8, 2))
    sesurgeon.save(sesurgeon.add_se(net, example_inputs=torch.zeros(2, 1, 8, 8)), tmp_path / "net.se.pt")
    stops = {"whole": (-1, 0), "within": (1, 2), "end": (0, 6)}
    for name, (epoch, update) in stops.items():
        in_two_processes(tmp_path / "stopped.py", STOPPED, str(tmp_path), name, str(epoch), str(update))
    whole, *others = (sesurgeon.load(tmp_path / f"runs/{name}/last.pt").state_dict() for name in stops)
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in whole.items())
