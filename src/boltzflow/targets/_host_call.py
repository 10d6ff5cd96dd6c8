"""Energies by a function on the host, inside compiled programs.

`jax.pure_callback` would do but for one thing: it puts its arguments on a CPU device before it calls, and where arrays are large that
copy waits for a thread of the very pool that is waiting for the callback. On one core it hangs (jax 0.10.1, batches of 0.6 MB in a queue
of programs; compare jax-ml/jax issue 24255). Here the function gets the NumPy arrays that XLA hands over.
"""

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float

# Positions (..., N, D) and whether gradients are wanted -> energies (...) and gradients (..., N, D), in the positions' precision.
Host = Callable[[Float[np.ndarray, "*B N D"], bool], tuple[Float[np.ndarray, "*B"], Float[np.ndarray, "*B N D"]]]

_primitive = Primitive("boltzflow_energy_on_host")
_primitive.multiple_results = True


def host_energy(positions: Float[Array, "N D"], host: Host) -> Float[Array, ""]:
    """Energy of a configuration; under vmap the host gets all of them at once."""
    return _primitive.bind(positions, host=host, gradient=False)[0]


def host_energy_and_gradient(positions: Float[Array, "N D"], host: Host) -> tuple[Float[Array, ""], Float[Array, "N D"]]:
    """Energy of a configuration and its gradient; under vmap the host gets all of them at once."""
    energy, gradient = _primitive.bind(positions, host=host, gradient=True)
    return energy, gradient


def _call(positions: Any, host: Host, gradient: bool) -> list[np.ndarray]:
    energies, gradients = host(np.asarray(positions), gradient)
    return [energies, gradients] if gradient else [energies]


@_primitive.def_impl
def _now(positions: Any, *, host: Host, gradient: bool) -> list[Array]:
    return [jnp.asarray(result) for result in _call(positions, host, gradient)]


@_primitive.def_abstract_eval
def _shapes(positions: Any, *, host: Host, gradient: bool) -> list[Any]:
    shapes = [positions.shape[:-2], positions.shape] if gradient else [positions.shape[:-2]]
    return [ShapedArray(shape, positions.dtype) for shape in shapes]


def _lower(context: mlir.LoweringRuleContext, positions: Any, *, host: Host, gradient: bool) -> Any:
    results, _, _ = mlir.emit_python_callback(
        context,
        lambda x: _call(x, host, gradient),
        None,
        [positions],
        cast(list[ShapedArray], context.avals_in),
        cast(list[ShapedArray], context.avals_out),
        has_side_effect=False,
    )
    return results


def _batch(arguments: Any, axes: Any, *, host: Host, gradient: bool) -> Any:
    results = _primitive.bind(jnp.moveaxis(arguments[0], axes[0], 0), host=host, gradient=gradient)
    return results, [0] * len(results)


mlir.register_lowering(_primitive, _lower, cacheable=False)
batching.primitive_batchers[_primitive] = _batch
