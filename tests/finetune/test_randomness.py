from __future__ import annotations

import random

import numpy as np
import torch

from sesurgeon.randomness import reseed, untouched


def test_seeds_go_round_so_that_each_process_of_a_run_has_one() -> None:
    def drawn(seed: int) -> tuple[float, float, float]:
        reseed(seed, torch.device("cpu"))
        return random.random(), float(np.random.random()), float(torch.rand(()))

    with untouched():
        assert drawn(2**32 - 1 + 6) == drawn(5) != drawn(6)
