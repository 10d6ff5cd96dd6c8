"""The stack of coupling layers: two groups of position channels take turns to move.

Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, section 3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from boltzflow.flows.coupling.layer import CouplingLayer, Transformed
from boltzflow.flows.coupling.plain import PlainCoupling
from boltzflow.flows.coupling.scaling import Scaling
from boltzflow.nets.channel_egnn import ChannelLayer
from boltzflow.nets.stacking import Packed, pack, packed_within


class CouplingStack(eqx.Module):
    """Blocks of two coupling layers each: from data to latent, the second group moves, then the first one.

    The first group is the positions with the first augmented variables, the second one the rest. Each move is made in the frame of the
    centre of mass of the first channel that it is given, and at the end all is centred on the positions. The second group thus moves in
    the frame of the positions, as it is; this keeps the positions on the zero-CoM subspace and the log-det that of the moves. Seen so,
    all moves are the same program with the groups exchanged, which is compiled once.

    Attributes:
        layers: two for each block, stacked.
        scalings: on the data side of each block, stacked; None: no scaling.
    """

    layers: CouplingLayer | PlainCoupling
    scalings: Scaling | None = None

    @property
    def equivariant(self) -> bool:
        """Whether the layers are equivariant under rotations."""
        return isinstance(self.layers, CouplingLayer)

    @property
    def mirror_symmetric(self) -> bool:
        """Whether the layers are equivariant under reflections."""
        return isinstance(self.layers, CouplingLayer) and self.layers.projection.mirror_symmetric

    def __call__(self, channels: Float[Array, "N K D"], *, inverse: bool) -> Transformed:
        """Towards the latent space, or back to data for `inverse`."""
        layers = pack(packed_within(self.layers, ChannelLayer, 2))
        scalings = None if self.scalings is None else pack(jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), self.scalings))
        opens = jnp.arange(layers.array.shape[0]) % 2 == 0
        half = channels.shape[1] // 2
        first, second = channels[:, :half], channels[:, half:]

        def step(
            groups: tuple[Array, Array], inputs: tuple[Packed, Packed | None, Bool[Array, ""]]
        ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            layer, scaling, opens = inputs
            scaled = jnp.zeros((), channels.dtype)
            if scaling is not None and not inverse:
                groups, scaled = _scaled(scaling.unpack(), groups, opens, inverse=False)
            given, moving = groups
            centre = jnp.mean(given[:, 0], axis=0)[None, None]
            given = given - centre
            moved, log_det, penalty = layer.unpack()(moving - centre, given, inverse=inverse)
            groups = moved, given
            if scaling is not None and inverse:
                groups, scaled = _scaled(scaling.unpack(), groups, opens, inverse=True)
            return groups, (log_det + scaled, penalty)

        # What moves last on the way to the latent space moves first on the way back, when the pair is held the other way round.
        start = (second, first) if inverse else (first, second)
        groups, changes = jax.lax.scan(step, start, (layers, scalings, opens), reverse=inverse)
        moved = jnp.concatenate(groups[::-1] if inverse else groups, axis=1)
        log_dets, penalties = changes
        return Transformed(moved - jnp.mean(moved[:, 0], axis=0)[None, None], jnp.sum(log_dets), jnp.mean(penalties))


def _scaled(
    scaling: Scaling, groups: tuple[Array, Array], opens: Bool[Array, ""], *, inverse: bool
) -> tuple[tuple[Array, Array], Float[Array, ""]]:
    """The pair of groups scaled where a block opens, and the log-det; as they are in the middle of a block."""
    half = groups[0].shape[1]
    channels = jnp.concatenate(groups[::-1] if inverse else groups, axis=1)
    channels = channels - jnp.mean(channels[:, 0], axis=0)[None, None]
    scaled = scaling(channels, inverse=inverse)
    kept = jnp.where(opens, scaled.channels, channels)
    first, second = kept[:, :half], kept[:, half:]
    return (second, first) if inverse else (first, second), jnp.where(opens, scaled.log_det, 0.0)
