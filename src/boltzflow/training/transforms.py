"""Gradient transformations of our own, on flat parameters, that chain with those of optax.

They take extra arguments by name: `norm`, the norm of the gradient before anything is done to it, and `step`, the steps done before in
the stage, those that were left out included, so that these do not hold schedules back.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

_REMEMBERED = 100


class Norms(NamedTuple):
    """Norms of the last gradients.

    Attributes:
        ring: norms before clipping; NaN where there is none yet.
        seen: gradients seen.
    """

    ring: Float[Array, " 100"]
    seen: Int[Array, ""]

    @classmethod
    def none(cls, dtype: Any) -> "Norms":
        """Before the first gradient."""
        return cls(jnp.full(_REMEMBERED, jnp.nan, dtype), jnp.zeros((), jnp.int32))

    @property
    def median(self) -> Float[Array, ""]:
        """Their median; infinite before the first."""
        return jnp.where(self.seen > 0, jnp.nanmedian(self.ring), jnp.inf)

    def after(self, norm: Float[Array, ""]) -> "Norms":
        """With one more."""
        return Norms(self.ring.at[self.seen % _REMEMBERED].set(norm), self.seen + 1)


class SkipNonfiniteState(NamedTuple):
    """Steps left out, and the state of what is guarded."""

    skipped: Int[Array, ""]
    inner: PyTree


class SkipAboveState(NamedTuple):
    """Norms of the last gradients, steps left out, and the state of what is guarded."""

    norms: Norms
    skipped: Int[Array, ""]
    inner: PyTree


class AverageState(NamedTuple):
    """Moving average of the parameters."""

    average: Float[Array, " P"]


def clip_by_median(factor: float) -> optax.GradientTransformationExtraArgs:
    """Scales a gradient down to `factor` times the median norm of the last 100.

    The norm of a step that is left out counts, else a change for good would be left out for ever.

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix on training.
    """

    def init(params: Any) -> Norms:
        return Norms.none(params.dtype)

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any, **_: Any) -> tuple[Any, Any]:
        return updates * jnp.minimum(1.0, factor * state.median / (norm + 1e-12)), state.after(norm)

    return _transformation(init, update)


def skip_above_median(inner: optax.GradientTransformation, factor: float) -> optax.GradientTransformationExtraArgs:
    """Leaves out a step whose gradient has more than `factor` times the median norm of the last 100: nothing of it is kept but its norm."""
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> SkipAboveState:
        return SkipAboveState(Norms.none(params.dtype), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any, **extra: Any) -> tuple[Any, Any]:
        keep = norm <= factor * state.norms.median
        taken, after = _taken_where(keep, inner, updates, state.inner, params, norm=norm, **extra)
        return taken, SkipAboveState(state.norms.after(norm), state.skipped + (~keep).astype(jnp.int32), after)

    return _transformation(init, update)


def skip_nonfinite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Leaves out a step whose gradient is not finite: nothing of it is kept."""
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> SkipNonfiniteState:
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any, **extra: Any) -> tuple[Any, Any]:
        keep = jnp.isfinite(norm)
        taken, after = _taken_where(keep, inner, updates, state.inner, params, norm=norm, **extra)
        return taken, SkipNonfiniteState(state.skipped + (~keep).astype(jnp.int32), after)

    return _transformation(init, update)


def _taken_where(
    keep: Bool[Array, ""], inner: optax.GradientTransformationExtraArgs, updates: Any, state: PyTree, params: Any, **extra: Any
) -> tuple[Any, PyTree]:
    """The step of `inner` and its state after it, or no step and the state as it was."""
    taken, after = inner.update(updates, state, params, **extra)
    taken = jnp.asarray(taken)
    return jnp.where(keep, taken, jnp.zeros_like(taken)), jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, state)


def scale_by_schedule(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Goes down by the learning rate of the step."""

    def update(updates: Any, state: Any, params: Any = None, *, step: Any, **_: Any) -> tuple[Any, Any]:
        return -(jnp.asarray(rate(step)).astype(updates.dtype) * updates), state

    return _transformation(lambda params: optax.EmptyState(), update)


def average(decay: float) -> optax.GradientTransformationExtraArgs:
    """Keeps the exponential moving average of the parameters; the last of a chain, for it must see the whole step."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.copy(params))

    def update(updates: Any, state: Any, params: Any = None, *, step: Any, **_: Any) -> tuple[Any, Any]:
        after = params + updates
        # A short memory at first, so that the average forgets the initial parameters.
        kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return updates, AverageState(state.average + (1.0 - kept).astype(after.dtype) * (after - state.average))

    return _transformation(init, update)


def _transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """With extra arguments that are given by name, which optax's types do not foresee."""
    return optax.GradientTransformationExtraArgs(init, update)


def averaged(state: PyTree) -> Float[Array | np.ndarray, " P"]:
    """The average in the state of a chain, which is of NumPy where it was read from a checkpoint."""
    return optax.tree.get(state, "average")


def skipped(state: PyTree) -> Int[Array | np.ndarray, ""]:
    """Steps that the state of a chain says were left out."""
    found = [value for _, value in optax.tree.get_all_with_path(state, "skipped")]
    return functools.reduce(jnp.add, found)
