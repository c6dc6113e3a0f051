from __future__ import annotations

import os

# What a fine-tuning takes by itself is the CPU, also where there are NVIDIA's GPUs, so that bits can be compared; it is
# set before CUDA starts. On a GPU: CUDA_VISIBLE_DEVICES=0 pytest tests/blocks/test_cuda.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch

# Tiny networks run fastest on one thread, and tests that run side by side do not fight for cores.
torch.set_num_threads(1)
