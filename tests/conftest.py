from __future__ import annotations

import torch

# Tiny networks run fastest on one thread, and tests that run side by side do not fight for cores.
torch.set_num_threads(1)
