"""Refinement of a trained continuous flow by path gradients: the target's forces teach it what flow matching averages out.

A gradient of the Kullback-Leibler divergence that reaches the parameters only through the path of each configuration has no variance
at the optimum, where flow matching still has all of its own. Sources: Vaitl, Nicoli, Nakajima and Kessel, ICML 2022,
arXiv:2206.09016; Vaitl, Winkler, Richter and Kessel, ICLR 2024, arXiv:2403.15881.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.config import RefinementConfig
from boltzflow.flows import quadrature
from boltzflow.flows.divergence import velocity_and_divergence
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.flow_matching import Batch, centred_normal


@dataclasses.dataclass(frozen=True)
class PathGradient:
    """Path gradients of KL(q|p) over flow samples, of KL(p|q) over reference frames, or of their mean.

    Attributes:
        options: the refinement's configuration.
        energy: reduced energy of one configuration in data units; of the configuration that counts for one of the flow, which may be its
            mirror image (`flows.images.energy_that_counts`).
        scale: one unit of the prior in data units.
    """

    options: RefinementConfig
    energy: Callable[[Float[Array, "N D"]], Float[Array, ""]]
    scale: float

    def prepare(self, frames: Float[np.ndarray, "n N D"], *, seed: int, step: int) -> Batch:
        """Draws prior samples and frames of one step on the host; they depend on `seed` and `step` alone.

        Args:
            frames: data in units of the prior, centred.
            seed: seed of the run.
            step: number of the step, counted from the beginning of the run.
        """
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, step]))
        shape = (self.options.batch_size, *frames.shape[1:])
        data = frames[rng.integers(len(frames), size=shape[0])]
        prior = centred_normal(rng, shape, data.dtype)
        time = np.zeros(shape[0], data.dtype)
        return Batch(prior, data, time, prior)

    def losses(self, field: AbstractVectorField, batch: Batch) -> Float[Array, " B"]:
        """Divergence of each pair up to a constant, which is zero for "both", with the path gradient as its gradient."""
        precision = jnp.result_type(batch.prior, *jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))
        parts = []
        if self.options.divergence in ("reverse", "both"):
            parts.append(jax.vmap(lambda x: self._reverse(field, x))(jnp.asarray(batch.prior, precision)))
        if self.options.divergence in ("forward", "both"):
            parts.append(jax.vmap(lambda x: self._forward(field, x))(jnp.asarray(batch.data, precision)))
        return jnp.mean(jnp.stack(parts), axis=0)

    def _reverse(self, field: AbstractVectorField, latent: Float[Array, "N D"]) -> Float[Array, ""]:
        """Log q(x) + u(x) of one flow sample; its gradient pulls x along the difference of the two scores."""
        end, score, change = transport_with_score(field, latent, -latent, self.options.nodes, grading=self.options.grading)
        energy, gradient = jax.value_and_grad(lambda x: self.energy(x * self.scale))(end)
        pull = bounded(score + gradient, self.options.clip)
        path = _path(field, latent, self.options.nodes, grading=self.options.grading)
        return with_gradient(-0.5 * jnp.sum(latent**2) - change + energy, pull, path)

    def _forward(self, field: AbstractVectorField, frame: Float[Array, "N D"]) -> Float[Array, ""]:
        """-log q(x) - u(x) of one frame, whose mean is the divergence and log Z and has far less noise than that of -log q(x).

        In the latent space the frames' density is drawn towards the prior.
        """
        energy, gradient = jax.value_and_grad(lambda x: self.energy(x * self.scale))(frame)
        score = -gradient
        latent, pulled_back, change = transport_with_score(
            field, frame, score, self.options.nodes, grading=self.options.grading, reverse=True
        )
        pull = bounded(pulled_back + latent, self.options.clip)
        path = _path(field, frame, self.options.nodes, grading=self.options.grading, reverse=True)
        return with_gradient(0.5 * jnp.sum(latent**2) - change - energy, pull, path)


def with_gradient(value: Float[Array, ""], pull: Float[Array, "*shape"], end: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The value, with the gradient of pull · end; `end` has the shape of the pull, (N, D) or (N, K, D).

    Where the pull is not finite, as in a clash, the value is NaN and the gradient zero, so that the configuration can be left out
    without spoiling the sum of the others: zero times infinity would be NaN.
    """
    usable = jnp.isfinite(value) & jnp.all(jnp.isfinite(pull))
    surrogate = jnp.sum(jax.lax.stop_gradient(jnp.where(usable, pull, 0.0)) * end)
    return jnp.where(usable, jax.lax.stop_gradient(value - surrogate), jnp.nan) + surrogate


def bounded(pull: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """The vector, shortened to the bound: a sample with overlapping particles must not outweigh all others."""
    norm = jnp.sqrt(jnp.sum(pull**2) + 1e-12)
    # The squares of what is far too long overflow before it does.
    largest = jnp.maximum(jnp.max(jnp.abs(pull)), 1.0)
    norm = jnp.where(jnp.isfinite(norm), norm, largest * jnp.sqrt(jnp.sum((pull / largest) ** 2)))
    return pull * jnp.minimum(1.0, bound / norm)


def _path(
    field: AbstractVectorField, start: Float[Array, "N D"], nodes: int, *, grading: float, reverse: bool = False
) -> Float[Array, "N D"]:
    """End point, differentiable with respect to the parameters; stages are computed again on the way back, so that memory stays flat."""

    @jax.checkpoint
    def step(x: Array, interval: quadrature.Grid) -> tuple[Array, None]:
        t, h, _ = interval
        return quadrature.runge_kutta(field, t, x, h), None

    return jax.lax.scan(step, start, _intervals(nodes, grading, reverse, start.dtype))[0]


def _intervals(nodes: int, grading: float, reverse: bool, dtype: Any) -> quadrature.Grid:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), quadrature.grid(nodes, grading=grading, reverse=reverse))


def transport_with_score(
    field: AbstractVectorField,
    start: Float[Array, "N D"],
    score: Float[Array, "N D"],
    nodes: int,
    *,
    grading: float = 1.0,
    reverse: bool = False,
) -> tuple[Float[Array, "N D"], Float[Array, "N D"], Float[Array, ""]]:
    """End point, score of the transported density there, and the integral of the divergence.

    The score obeys ds/dt = -J^T s - grad div v. Its inhomogeneous part is an integral like the divergence itself, and is added at the
    nodes of the same rule.
    """

    def rates(t: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        velocity, transposed = jax.vjp(lambda x: field(t, x), state[0])
        return velocity, -transposed(state[1])[0]

    def step(carry: tuple[Array, Array, Array], interval: quadrature.Grid) -> tuple[tuple[Array, Array, Array], None]:
        x, s, change = carry
        t, h, weight = map(jnp.asarray, interval)
        rate, slope = jax.lax.cond(
            weight == 0.0,
            lambda y: (jnp.zeros((), y.dtype), jnp.zeros_like(y)),
            jax.value_and_grad(lambda y: velocity_and_divergence(field, t, y, method="exact")[1]),
            x,
        )
        x, s = quadrature.runge_kutta(rates, t, (x, s - weight * slope), h)
        return (x, s, change + weight * rate), None

    zero = jnp.zeros((), start.dtype)
    end, _ = jax.lax.scan(step, (start, score, zero), _intervals(nodes, grading, reverse, start.dtype))
    return jax.tree.map(jax.lax.stop_gradient, end)
