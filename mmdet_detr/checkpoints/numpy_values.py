"""Read arrays and numbers of NumPy from files that nobody has checked.

NumPy's own types trust the state that a pickle gives them: if an entry of a ``dtype`` is missing, memory is corrupted.
While a file is read, the types of this module take their places.
"""

import argparse
import pickle
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

CODES = {np.dtype(code).str[1:] for code in np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'}


class StoredType:
    """A ``numpy.dtype`` of numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in CODES:
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype.{code}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] == '>':
            self.dtype = self.dtype.newbyteorder('>')


class StoredArray:
    """A ``numpy.ndarray`` of numbers."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order='F' if fortran else 'C').copy()


def stored_scalar(kind: StoredType, content: bytes) -> np.generic:
    """A number of a :class:`StoredType`."""
    return np.frombuffer(content, kind.dtype)[0]


# These take the places of NumPy's types and functions, by their names in a pickle. NumPy 2 renamed "core".
STAND_INS: dict[str, Any] = {
    'numpy.dtype': StoredType,
    'numpy.ndarray': StoredArray,
    **{f'numpy.{core}.multiarray._reconstruct': StoredArray for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': stored_scalar for core in ('core', '_core')},
}


def with_arrays(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The content of a file with NumPy's own types again."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)][1]
    result = value
    seen[id(value)] = value, result  # the value is kept because the id of a deleted object is used again
    if isinstance(value, StoredArray):
        result = value.array
    elif isinstance(value, StoredType):
        result = value.dtype
    elif isinstance(value, dict):
        value.update({key: with_arrays(inner, seen) for key, inner in value.items()})
    elif isinstance(value, HistoryBuffer | argparse.Namespace):
        with_arrays(vars(value), seen)
    elif type(value) is list:
        value[:] = [with_arrays(inner, seen) for inner in value]
    elif type(value) is tuple:
        result = tuple(with_arrays(inner, seen) for inner in value)
    seen[id(value)] = value, result
    return result
