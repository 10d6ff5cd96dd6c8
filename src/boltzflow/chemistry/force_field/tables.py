"""Tabulated functions of OpenMM's custom forces."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

from boltzflow.errors import TargetError


def tabulated(force: Any) -> dict[str, Callable[..., Any]]:
    """The tabulated functions of a force by name.

    Raises:
        TargetError: if one of them is of a kind that is not known here.
    """
    found = {}
    for i in range(force.getNumTabulatedFunctions()):
        name, function = force.getTabulatedFunctionName(i), force.getTabulatedFunction(i)
        found[name] = _function(name, function)
    return found


def _function(name: str, function: Any) -> Callable[..., Any]:
    kind = type(function).__name__
    if kind == "Continuous1DFunction":
        if hasattr(function, "getPeriodic") and function.getPeriodic():
            raise TargetError(f"the tabulated function {name!r} is periodic, which cannot be compiled; use a function of cosines.")
        values, low, high = function.getFunctionParameters()
        return _spline(np.asarray(values, np.float64), float(low), float(high))
    if kind == "Discrete1DFunction":
        return _lookup(np.asarray(function.getFunctionParameters(), np.float64))
    if kind == "Discrete2DFunction":
        width, height, values = function.getFunctionParameters()
        # The first argument runs fastest.
        return _lookup(np.asarray(values, np.float64).reshape(int(height), int(width)).T)
    raise TargetError(f"the tabulated function {name!r} is a {kind}, which cannot be compiled.")


def _lookup(table: np.ndarray) -> Callable[..., Any]:
    def look(*arguments: Any) -> Any:
        if all(isinstance(argument, np.ndarray | float | int) for argument in arguments):
            return table[tuple(np.rint(argument).astype(np.int64) for argument in arguments)]
        return jnp.asarray(table, jnp.result_type(*arguments))[tuple(jnp.rint(argument).astype(jnp.int32) for argument in arguments)]

    return look


def _spline(values: np.ndarray, low: float, high: float) -> Callable[..., Any]:
    """A natural cubic spline through evenly spaced points; 0 outside of their range."""
    coefficients = CubicSpline(np.linspace(low, high, len(values)), values, bc_type="natural").c
    width = (high - low) / (len(values) - 1)

    def interpolate(x: Any) -> Any:
        table = jnp.asarray(coefficients, jnp.result_type(x))
        cell = jnp.clip(jnp.floor((x - low) / width), 0, len(values) - 2).astype(jnp.int32)
        offset = x - low - cell * width
        c3, c2, c1, c0 = (part[cell] for part in table)
        inside = (x >= low) & (x <= high)
        return jnp.where(inside, ((c3 * offset + c2) * offset + c1) * offset + c0, 0.0)

    return interpolate
