"""The one way in which host kernels are compiled."""

import inspect
from collections.abc import Callable
from typing import Any

from boltzflow import extras

with extras.of("train", "matching particles"):
    import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function on its first call, without the GIL, and keeps the machine code on disk where a folder is writable.

    Parallelism comes from Python threads over chunks (`numba.prange` with numba's bundled threading layer must not be entered from
    two Python threads at once, which a prefetch thread would do). No fast-math: the assignment relies on exact comparisons.
    Numba's disk cache looks only at the file of the cached function: after an edit of a kernel that kernels in other files call,
    delete `__pycache__/*.nbi`.
    """
    function = inspect.unwrap(function)  # numba reads bytecode: not that of the wrapper by which the tests check types
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package folder nor the user's cache folder can be written
        return numba.njit(nogil=True)(function)
