"""Flow matching on given paths between paired prior and data samples."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow import config
from boltzflow.nets.base import AbstractVectorField
from boltzflow.objectives.base import AbstractObjective, Proposal
from boltzflow.objectives.pairing import pair
from boltzflow.objectives.paths import path


class Pairs(NamedTuple):
    """Paired samples of one training step, in units of the prior.

    Attributes:
        prior: x0, (B, N, D).
        data: x1, (B, N, D).
        time: t in [0, 1], (B,).
        noise: zero-CoM normal noise around the path, (B, N, D).
    """

    prior: Float[Array | np.ndarray, "B N D"]
    data: Float[Array | np.ndarray, "B N D"]
    time: Float[Array | np.ndarray, " B"]
    noise: Float[Array | np.ndarray, "B N D"]


@dataclasses.dataclass(frozen=True)
class FlowMatching(config.FlowMatching, AbstractObjective):
    """Conditional flow matching: |v(t, x_t) - dx_t/dt|² at x_t = b x0 + a x1 + sigma·noise; on the linear path b = 1-t, a = t.

    Other paths have times at which the velocity is many times larger than at others; there the error is divided by half the sum of the
    squared rates of b and a, which is 1 on the linear path and moves no minimum.

    Source: Klein, Krämer and Noé, NeurIPS 2023, arXiv:2306.15030, section 4; Lipman et al., ICLR 2023, arXiv:2210.02747, section 4.
    """

    weighted: ClassVar[bool] = True

    def propose(self, state: Any, network: Any, frames: Float[np.ndarray, "n N D"], *, step: int, key: Any = None) -> Proposal:
        """Draws and pairs the batch of one step on the host.

        All that is random comes from the seed and the step alone, so that a resumed run sees the same batches. Times are stratified over
        the batch, which lowers the variance of the loss. Where the flow cannot tell mirror images apart it learns the density of both,
        and for that one they are a symmetry.
        """
        setting, size = self.setting, self.setting.batch_size
        rng = setting.rng(0, step)
        shape = (size, *frames.shape[1:])
        data = setting.drawn(rng, frames)
        prior, noise = (centred_normal(rng, shape, data.dtype) for _ in range(2))
        prior, data, info = pair(
            prior,
            data,
            pairing=cast(config.PairingName, self.pairing.variant),
            full_cost=getattr(self.pairing, "full_cost", False),
            classes=np.asarray(setting.target.classes),
            reflections=setting.target.reflections or setting.flow.mirror_symmetric,
            threads=setting.threads,
        )
        quantile = (rng.permutation(size) + rng.random(size)) / size
        batch = Pairs(prior, data, self._times(quantile).astype(data.dtype), noise)
        return Proposal(state, batch, {"pairing_cost": info.cost_after})

    def _times(self, quantile: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
        """Uniform times, a share of which is mapped to a density that grows as 1/sqrt(1-t) towards the data."""
        share = self.late_time
        if share in (0.0, 1.0):
            return 1.0 - quantile**2 if share else quantile
        late = quantile < share
        return np.where(late, 1.0 - (quantile / share) ** 2, (quantile - share) / (1.0 - share))

    def losses(self, field: AbstractVectorField, batch: Pairs) -> Float[Array, " B"]:
        """Squared error of the velocity of each pair; `field` is vmapped here."""
        batch = jax.tree.map(jnp.asarray, batch)
        at = path(self.path, jnp.asarray(batch.time)[:, None, None])
        positions = at.noise * batch.prior + at.signal * batch.data + self.sigma * batch.noise
        velocity = jax.vmap(field)(jnp.asarray(batch.time), jnp.asarray(positions))
        error = velocity - (at.noise_rate * batch.prior + at.signal_rate * batch.data)
        weight = 2.0 / (at.noise_rate**2 + at.signal_rate**2)
        return jnp.sum(weight * error**2, axis=(1, 2))


def centred_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Float[np.ndarray, "B N D"]:
    """Standard normal configurations on the zero-CoM subspace, drawn in float32 or float64."""
    values = rng.standard_normal(shape, dtype=np.float64 if dtype == np.float64 else np.float32)
    return values - values.mean(axis=1, keepdims=True)
