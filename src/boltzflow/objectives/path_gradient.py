"""Refinement of a trained continuous flow by path gradients: the target's forces teach it what flow matching averages out.

A gradient of the Kullback-Leibler divergence that reaches the parameters only through the path of each configuration has no variance
at the optimum, where flow matching still has all of its own. Sources: Vaitl, Nicoli, Nakajima and Kessel, ICML 2022,
arXiv:2206.09016; Vaitl, Winkler, Richter and Kessel, ICLR 2024, arXiv:2403.15881.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.counting import Evaluations
from boltzflow.flows import quadrature
from boltzflow.flows.divergence import velocity_and_divergence
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal, Setting
from boltzflow.objectives.flow_matching import centred_normal


class Ends(NamedTuple):
    """Where the paths of one step begin, in units of the prior.

    Attributes:
        prior: prior samples, (B, N, D).
        data: frames, (B, N, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]
    data: Float[Array | np.ndarray, "B N D"]


@dataclasses.dataclass(frozen=True)
class PathGradient(config.PathGradient, AbstractObjective):
    """Path gradients of KL(q|p) over flow samples, of KL(p|q) over reference frames, or of their mean.

    The energy is that of the configuration that counts for one of the flow, which may be its mirror image (`flows.images`).
    """

    needs: ClassVar[Needs] = Needs(frames=True, energy=True, gradient=True)
    weighted: ClassVar[bool] = True

    def propose(self, state: Any, network: Any, frames: Float[np.ndarray, "n N D"], *, step: int, key: Any = None) -> Proposal:
        """Draws prior samples and frames of one step on the host; they depend on the seed and the step alone."""
        rng = self.setting.rng(1, step)
        data = self.setting.drawn(rng, frames)
        return Proposal(state, Ends(centred_normal(rng, data.shape, data.dtype), data), evaluations=evaluations(self.direction, len(data)))

    def losses(self, field: AbstractVectorField, batch: Ends) -> Float[Array, " B"]:
        """Divergence of each pair up to a constant, which is zero for "both", with the path gradient as its gradient."""
        precision = jnp.result_type(batch.prior, *jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))
        parts = []
        if self.direction in ("reverse", "both"):
            parts.append(jax.vmap(lambda x: self._reverse(field, x))(jnp.asarray(batch.prior, precision)))
        if self.direction in ("forward", "both"):
            parts.append(jax.vmap(lambda x: self._forward(field, x))(jnp.asarray(batch.data, precision)))
        return jnp.mean(jnp.stack(parts), axis=0)

    def _energy(self, x: Float[Array, "N D"]) -> Float[Array, ""]:
        return energy_of(self.setting, x)

    def _reverse(self, field: AbstractVectorField, latent: Float[Array, "N D"]) -> Float[Array, ""]:
        return reverse_divergence(field, latent, self._energy, nodes=self.nodes, grading=self.grading, clip=self.clip)

    def _forward(self, field: AbstractVectorField, frame: Float[Array, "N D"]) -> Float[Array, ""]:
        """-log q(x) - u(x) of one frame, whose mean is the divergence and log Z and has far less noise than that of -log q(x).

        In the latent space the frames' density is drawn towards the prior.
        """
        energy, gradient = jax.value_and_grad(self._energy)(frame)
        score = -gradient
        latent, pulled_back, change = transport_with_score(field, frame, score, self.nodes, grading=self.grading, reverse=True)
        pull = bounded(pulled_back + latent, self.clip)
        path = _path(field, frame, self.nodes, grading=self.grading, reverse=True)
        return with_gradient(0.5 * jnp.sum(latent**2) - change - energy, pull, path)


def energy_of(setting: Setting, x: Float[Array, "N D"]) -> Float[Array, ""]:
    """Reduced energy of a configuration in units of the prior."""
    return setting.energy(x * setting.flow.scale)


def reverse_divergence(
    field: AbstractVectorField,
    latent: Float[Array, "N D"],
    energy: Callable[[Float[Array, "N D"]], Float[Array, ""]],
    *,
    nodes: int,
    grading: float,
    clip: float,
) -> Float[Array, ""]:
    """Log q(x) + u(x) of one flow sample; its gradient pulls x along the difference of the two scores.

    Args:
        field: the vector field.
        latent: where the sample comes from, in units of the prior.
        energy: reduced energy u of a configuration in units of the prior.
        nodes: of the Gauss-Legendre rule along the path.
        grading: exponent that moves the nodes towards the data.
        clip: largest pull.
    """
    end, score, change = transport_with_score(field, latent, -latent, nodes, grading=grading)
    u, gradient = jax.value_and_grad(energy)(end)
    path = _path(field, latent, nodes, grading=grading)
    return with_gradient(-0.5 * jnp.sum(latent**2) - change + u, bounded(score + gradient, clip), path)


def evaluations(direction: str, size: int) -> Evaluations:
    """Of the energy in a step: one gradient at the end of each path."""
    return Evaluations(gradients=size * (2 if direction == "both" else 1))


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
