"""Scaling of augmented positions about their centres of mass: sizes depend on where the centres are, the centres are scaled by constants.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix on alanine dipeptide.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.flows.coupling.layer import Transformed
from boltzflow.nets.channel_egnn import Residual
from boltzflow.nets.mlp import Dense, positive


class Scaling(eqx.Module):
    """Invertible scaling of K = k + 1 channels, the first of which has its centre of mass at zero; the identity at the start."""

    hidden: Residual
    out: Dense
    centres: Float[Array, " k"]

    def __init__(self, channels: int, *, width: int = 16, key: PRNGKeyArray) -> None:
        """Scaling of the given number of channels."""
        self.hidden = Residual(channels - 1, (width, width), key=key)
        self.out = jax.tree.map(jnp.zeros_like, Dense(width, channels, key=key))
        self.centres = jnp.zeros(channels - 1)

    def __call__(self, channels: Float[Array, "N K D"], *, inverse: bool) -> Transformed:
        """Towards the latent space, or back to data for `inverse`."""
        n, _, dimension = channels.shape
        given = jnp.mean(channels, axis=0)
        shapes = channels - given[None]
        factor = jnp.concatenate([jnp.ones(1, channels.dtype), positive(self.centres)])
        # The sizes depend on the centres on the side of the data.
        before = given / factor[:, None] if inverse else given
        after = before if inverse else before * factor[:, None]
        distances = jnp.sqrt(jnp.sum(before[1:] ** 2, axis=-1) + 1e-12)
        size = positive(self.out(self.hidden(distances)))
        log_det = (n - 1) * dimension * jnp.sum(jnp.log(size)) + dimension * jnp.sum(jnp.log(factor))
        shapes = (shapes / size[None, :, None]) if inverse else shapes * size[None, :, None]
        # The first centre is zero by definition; written out, so that it stays so.
        moved = shapes + after.at[0].set(0.0)[None]
        return Transformed(moved, -log_det if inverse else log_det, jnp.zeros((), channels.dtype))
