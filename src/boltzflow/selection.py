"""Which rows an index means, the same for data sets and samples."""

import operator
from typing import Any

import numpy as np


def rows(index: Any, n: int) -> Any:
    """What picks the rows of an index out of columns of length n.

    Args:
        index: a whole number, which picks one row and keeps the axis; a slice; whole numbers; or n booleans.
        n: rows that there are.

    Returns:
        A slice or an array of whole numbers.

    Raises:
        IndexError: if a number is beyond the rows, there are not n booleans, or the index is none of these.
    """
    if isinstance(index, slice):
        return index
    array = np.asarray(index)
    if array.ndim == 1 and array.dtype == bool:
        if len(array) != n:
            raise IndexError(f"{len(array)} booleans cannot pick from {n} configurations; give one for each.")
        return np.flatnonzero(array)
    if array.ndim == 1 and not array.size:
        return np.empty(0, np.int64)
    if array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
        shown = f"an array of {array.dtype} of shape {array.shape}" if isinstance(index, np.ndarray) else repr(index)
        raise IndexError(f"configurations are picked by a whole number, a slice, whole numbers or booleans, not by {shown}.")
    found = np.atleast_1d(array)
    beyond = found[(found < -n) | (found >= n)]
    if beyond.size:
        raise IndexError(f"there is no configuration {operator.index(beyond[0])} of {n}.")
    return found
