"""NumPy's values in a file, without NumPy's unpickling.

A pickled ``dtype`` sets its own flags and offsets when it is filled in, which is not safe with a file that
nobody vouches for. Numbers, texts and objects need only its name and byte order, and their arrays are built by
NumPy's public functions. Types and arrays are stand-ins that work as NumPy's own, and are pickled as these.
"""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[biufc]\d{1,2}")
_KNOWN = re.compile(rf"{_NUMBER.pattern}|[SU]\d{{1,9}}|O8")


class NumpyType:
    """Stands in for ``numpy.dtype``: its name and byte order. NumPy takes it for a type, as it has a ``dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name
        self.byte_order = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = state[1]
        self.byte_order = order if order in ("<", ">") else "="

    def __reduce__(self) -> Any:
        return self.dtype.__reduce__()

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's own.

        Raises:
            UnpicklingError: it is of something else than numbers, texts or objects.
        """
        if not _KNOWN.fullmatch(self.name):
            raise pickle.UnpicklingError(f"a NumPy value of type '{self.name}'")
        return np.dtype(f"{self.byte_order}{self.name}")


class NumpyArray(np.ndarray[Any, np.dtype[Any]]):
    """Stands in for ``numpy.ndarray``."""

    def __new__(cls, *_: object) -> NumpyArray:
        return super().__new__(cls, 0)  # type: ignore[no-any-return]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, values = state
        dtype = _dtype_of(kind)
        flat = np.fromiter(values, dtype) if dtype.hasobject else np.frombuffer(values, dtype)
        super().__setstate__(flat.reshape(shape, order="F" if by_columns else "C").__reduce__()[2])

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


def _dtype_of(kind: object) -> np.dtype[Any]:
    """That of a stand-in; whatever else a pickle puts in its place may have a ``dtype`` of its own."""
    if not isinstance(kind, NumpyType):
        raise pickle.UnpicklingError("a NumPy value without a type")
    return kind.dtype


def numpy_scalar(kind: NumpyType, data: bytes) -> bool | int | float | complex:
    """The Python number that NumPy pickled as ``data``.

    Raises:
        UnpicklingError: it is no number.
    """
    if not _NUMBER.fullmatch(kind.name):
        raise pickle.UnpicklingError(f"a NumPy value of type '{kind.name}'")
    numbers: list[bool | int | float | complex] = np.frombuffer(data, _dtype_of(kind), count=1).tolist()
    return numbers[0]
