"""Refinement of a trained augmented coupling flow by path gradients: forces teach it what draws of frames and copies leave to chance.

Sources: Vaitl, Winkler, Richter and Kessel, ICLR 2024, arXiv:2403.15881, here for the joint density of positions and copies (Midgley,
Stimper et al., NeurIPS 2023, arXiv:2308.10364).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal, Setting
from boltzflow.objectives.path_gradient import bounded, energy_of, evaluations, with_gradient


class Ends(NamedTuple):
    """Where the paths of one step begin, in units of the prior.

    Attributes:
        prior: latent positions, (B, N, D).
        data: frames, (B, N, D).
        noise: normal noise of the copies of the frames and of the latent positions, (B, N, 2k, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]
    data: Float[Array | np.ndarray, "B N D"]
    noise: Float[Array | np.ndarray, "B N copies D"]


@dataclasses.dataclass(frozen=True)
class AugmentedPathGradient(config.AugmentedPathGradient, AbstractObjective):
    """Path gradients of KL(q|p) over flow samples, of KL(p|q) over reference frames, or of their mean.

    The densities are joint ones, q(x, a) and p(x) pi(a|x). The energy is that of the configuration that counts for one of the flow, which
    may be its mirror image (`flows.images`).
    """

    needs: ClassVar[Needs] = Needs(frames=True, energy=True, gradient=True)
    weighted: ClassVar[bool] = True

    @property
    def _flow(self) -> AugmentedCouplingFlow:
        return cast(AugmentedCouplingFlow, self.setting.flow)

    def propose(self, state: Any, network: Any, frames: Float[np.ndarray, "n N D"], *, step: int, key: Any = None) -> Proposal:
        """Draws latent positions, frames and the noise of the copies of both; they depend on the seed and the step alone."""
        rng, flow = self.setting.rng(4, step), self._flow
        size, (n, dimension) = self.setting.batch_size, frames.shape[1:]
        data = self.setting.drawn(rng, frames)
        prior = drawn_latents(flow, size, rng, data.dtype)
        noise = rng.standard_normal((size, n, 2 * flow.augmented, dimension), dtype=data.dtype.type)
        return Proposal(state, Ends(prior, data, noise), evaluations=evaluations(self.direction, size))

    def losses(self, network: CouplingStack, batch: Ends) -> Float[Array, " B"]:
        """Divergence of each pair up to log Z, which cancels for "both", with the path gradient as its gradient."""
        flow = self._flow.with_network(network)
        precision = jnp.result_type(batch.prior, *jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
        latents, frames, noise = (jnp.asarray(part, precision) for part in (batch.prior, batch.data, batch.noise))
        parts = []
        if self.direction in ("reverse", "both"):
            parts.append(
                jax.vmap(lambda x, e: reverse_divergence(flow, self.setting, x, e, clip=self.clip))(latents, noise[:, :, flow.augmented :])
            )
        if self.direction in ("forward", "both"):
            parts.append(jax.vmap(lambda x, e: self._forward(flow, x, e))(frames, noise[:, :, : flow.augmented]))
        return jnp.mean(jnp.stack(parts), axis=0)

    def _forward(self, flow: AugmentedCouplingFlow, frame: Float[Array, "N D"], noise: Float[Array, "N k D"]) -> Float[Array, ""]:
        """-log q(x, a) + log pi(a|x) - u(x) of one frame and its copies.

        In the latent space the density of the target, moved by the flow, is drawn towards the prior.
        """
        return pull_of_target(flow, flow.with_copies(frame, noise), functools.partial(log_target, self.setting), clip=self.clip)


def drawn_latents(flow: AugmentedCouplingFlow, size: int, rng: np.random.Generator, dtype: np.dtype) -> Float[np.ndarray, "B N D"]:
    """Latent positions of B = `size` draws, whatever the prior is."""
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), size)
    return np.asarray(jax.vmap(lambda key: flow.prior.sample(flow.n_particles, flow.dimension, key=key))(keys), dtype)


def reverse_divergence(
    flow: AugmentedCouplingFlow, setting: Setting, latent: Float[Array, "N D"], noise: Float[Array, "N k D"], *, clip: float
) -> Float[Array, ""]:
    """Log q(x, a) - log pi(a|x) + u(x) of one draw; its gradient pulls (x, a) along the difference of the two scores.

    Args:
        flow: the flow.
        setting: gives the energy.
        latent: latent positions, in units of the prior.
        noise: of their copies.
        clip: largest pull.
    """
    end = flow.push_forward(flow.with_copies(latent, noise))[0]
    frozen = _frozen(flow)
    return _pulled(lambda channels: frozen.joint(channels).log_q - log_target(setting, channels), end, clip)


def pull_of_target(
    flow: AugmentedCouplingFlow,
    channels: Float[Array, "N K D"],
    log_p: Callable[[Float[Array, "N K D"]], Float[Array, ""]],
    *,
    clip: float,
) -> Float[Array, ""]:
    """Log p(x, a) - log q(x, a) at a point; its gradient moves the latent point so that the target's density there falls to the flow's.

    Args:
        flow: the flow.
        channels: the point, in units of the prior.
        log_p: log density of the target, of whose gradient at the point alone the pull is made.
        clip: largest pull.
    """
    end = flow.stack(channels, inverse=False).channels
    frozen = _frozen(flow)

    def log_ratio(latent: Float[Array, "N K D"]) -> Float[Array, ""]:
        moved, log_q = frozen.push_forward(latent)
        return log_p(moved) - log_q

    return _pulled(log_ratio, end, clip)


def log_target(setting: Setting, channels: Float[Array, "N K D"]) -> Float[Array, ""]:
    """Log p(x) pi(a|x) up to log Z, of channels in units of the prior."""
    flow = cast(AugmentedCouplingFlow, setting.flow)
    return flow.log_conditional(channels) - energy_of(setting, channels[:, 0])


def _pulled(log_ratio: Callable[[Float[Array, "N K D"]], Float[Array, ""]], end: Float[Array, "N K D"], clip: float) -> Float[Array, ""]:
    """Logarithm of the ratio of two densities at `end`, with the gradient of moving `end` alone."""
    value, pull = jax.value_and_grad(log_ratio)(jax.lax.stop_gradient(end))
    return with_gradient(value, bounded(pull, clip), end)


def _frozen(flow: AugmentedCouplingFlow) -> AugmentedCouplingFlow:
    """The same flow, whose parameters no gradient reaches."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, flow)
