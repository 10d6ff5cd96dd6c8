"""Maximum likelihood of the joint density of an augmented coupling flow."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.errors import ConfigError
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.geometry.orthogonal import haar
from boltzflow.objectives.base import AbstractObjective, Proposal


class Copied(NamedTuple):
    """Frames of one step, in units of the prior.

    Attributes:
        data: frames, (B, N, D).
        noise: normal noise of the copies of each, (B, N, k, D).
    """

    data: Float[Array | np.ndarray, "B N D"]
    noise: Float[Array | np.ndarray, "B N k D"]


@dataclasses.dataclass(frozen=True)
class AugmentedLikelihood(config.AugmentedLikelihood, AbstractObjective):
    """-log q(x, a) of frames with one draw of their copies each, and the penalty against degenerate frames in three dimensions.

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, sections 3.3 and 4.
    """

    weighted: ClassVar[bool] = True

    def check(self) -> None:
        """Refuses a weight of the penalty where there are no frames of three particles."""
        super().check()
        refuse_penalty(self.collinearity, config.AugmentedLikelihood().collinearity, self.setting.flow.dimension)

    def propose(self, state: Any, network: Any, frames: Float[np.ndarray, "n N D"], *, step: int, key: Any = None) -> Proposal:
        """Draws the frames and the noise of their copies of one step on the host; they depend on the seed and the step alone.

        For a network that does not know rotations (and reflections, where these are a symmetry), each frame is turned at random.
        """
        setting, flow = self.setting, cast(AugmentedCouplingFlow, self.setting.flow)
        rng = setting.rng(3, step)
        data = setting.drawn(rng, frames)
        n, dimension = data.shape[1:]
        if not flow.equivariant:
            turns = haar(rng, setting.batch_size, dimension, determinant=None if setting.target.reflections else 1.0).astype(data.dtype)
            data = np.einsum("bij,bkj->bki", turns, data)
        noise = rng.standard_normal((setting.batch_size, n, flow.augmented, dimension), dtype=data.dtype.type)
        return Proposal(state, Copied(data, noise))

    def losses(self, network: CouplingStack, batch: Copied) -> Float[Array, " B"]:
        """Negative joint log-likelihood of each frame in nats and units of the prior, less log pi(a|x), with the weighted penalty.

        Subtracting log pi(a|x), which no parameter changes, makes the mean an upper bound of the NLL of the positions.
        """
        flow = cast(AugmentedCouplingFlow, self.setting.flow.with_network(network))
        collinearity = penalty_of(self.collinearity, flow.dimension)

        def loss(frame: Float[Array, "N D"], noise: Float[Array, "N K D"]) -> Float[Array, ""]:
            channels = flow.with_copies(frame, noise)
            density = flow.joint(channels)
            return flow.log_conditional(channels) - density.log_q + collinearity * density.collinearity

        return jax.vmap(loss)(jnp.asarray(batch.data), jnp.asarray(batch.noise))


def refuse_penalty(collinearity: float, default: float, dimension: int) -> None:
    """Refuses a weight of the penalty that is not the default where there are no frames of three particles.

    Raises:
        ConfigError: if it would have no effect.
    """
    if dimension != 3 and collinearity not in (0.0, default):
        raise ConfigError(
            f"collinearity={collinearity} would have no effect: the target has {dimension} dimensions, and frames degenerate in three "
            "alone; leave it out."
        )


def penalty_of(collinearity: float, dimension: int) -> float:
    """Weight of the penalty against degenerate frames, which there are in three dimensions alone."""
    return collinearity if dimension == 3 else 0.0
