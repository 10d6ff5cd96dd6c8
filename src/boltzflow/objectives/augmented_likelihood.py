"""Maximum likelihood of the joint density of an augmented coupling flow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.objectives.flow_matching import Batch


@dataclasses.dataclass(frozen=True)
class AugmentedLikelihood:
    """-log q(x, a) of frames with one draw of their copies each, and the penalty against degenerate frames.

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, sections 3.3 and 4.

    Attributes:
        flow: the flow; its coupling layers are those given to `losses`.
        collinearity: weight of the penalty.
        turn: rotate (and reflect, where that is a symmetry) each frame at random, for networks that do not know these symmetries.
    """

    flow: AugmentedCouplingFlow
    collinearity: float = 0.0
    turn: bool = False

    def prepare(self, frames: Float[np.ndarray, "n N D"], *, batch_size: int, seed: int, step: int, reflections: bool = False) -> Batch:
        """Draws the frames and the noise of their copies of one step on the host; they depend on `seed` and `step` alone.

        Args:
            frames: data in units of the prior, centred.
            batch_size: frames B.
            seed: seed of the run.
            step: number of the step.
            reflections: whether reflections are a symmetry.
        """
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 3, step]))
        data = frames[rng.integers(len(frames), size=batch_size)]
        n, dimension = data.shape[1:]
        if self.turn:
            turns = random_turns(rng, batch_size, dimension, reflections=reflections).astype(data.dtype)
            data = np.einsum("bij,bkj->bki", turns, data)
        noise = rng.standard_normal((batch_size, n, self.flow.augmented, dimension), dtype=data.dtype.type)
        return Batch(data, data, np.zeros(batch_size, data.dtype), noise)

    def losses(self, network: CouplingStack, batch: Batch) -> Float[Array, " B"]:
        """Negative joint log-likelihood of each frame in nats and units of the prior, less log pi(a|x), with the weighted penalty.

        Subtracting log pi(a|x), which no parameter changes, makes the mean an upper bound of the NLL of the positions.
        """
        flow = self.flow.with_network(network)

        def loss(frame: Float[Array, "N D"], noise: Float[Array, "N K D"]) -> Float[Array, ""]:
            channels = flow.with_copies(frame, noise)
            density = flow.joint(channels)
            return flow.log_conditional(channels) - density.log_q + self.collinearity * density.collinearity

        return jax.vmap(loss)(jnp.asarray(batch.data), jnp.asarray(batch.noise))


def random_turns(rng: np.random.Generator, count: int, dimension: int, *, reflections: bool) -> Float[np.ndarray, "n D D"]:
    """Orthogonal matrices drawn uniformly, all of them or the rotations among them."""
    orthogonal, triangular = np.linalg.qr(rng.standard_normal((count, dimension, dimension)))
    # QR with a positive diagonal of R is Haar-distributed over O(D).
    orthogonal = orthogonal * np.sign(np.diagonal(triangular, axis1=1, axis2=2))[:, None, :]
    if not reflections:
        orthogonal[:, :, 0] *= np.sign(np.linalg.det(orthogonal))[:, None]
    return orthogonal
