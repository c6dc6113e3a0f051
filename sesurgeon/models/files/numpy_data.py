"""NumPy's values in a checkpoint, without NumPy's unpickling.

A pickled ``dtype`` sets its own flags and offsets when it is filled in, which is not safe with a file that
nobody vouches for. Best scores and learning rates are plain numbers; arrays (random states, mostly)
are not needed.
"""

from __future__ import annotations

import re

import numpy as np

_NUMBER = re.compile(r"[biufc]\d{1,2}")


class NumpyType:
    """Stands in for ``numpy.dtype``: its name and byte order, for numbers."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name
        self.byte_order = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = state[1]
        self.byte_order = order if order in ("<", ">") else "="


class NumpyArray:
    """Stands in for an array, whose values are not read."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def numpy_scalar(kind: NumpyType, data: bytes) -> bool | int | float | complex:
    """The Python number that NumPy pickled as ``data``.

    Raises:
        ValueError: it is no number.
    """
    if not _NUMBER.fullmatch(kind.name):
        raise ValueError(f"a NumPy value of type '{kind.name}' is not read")
    numbers: list[bool | int | float | complex]
    numbers = np.frombuffer(data, np.dtype(f"{kind.byte_order}{kind.name}"), count=1).tolist()
    return numbers[0]
