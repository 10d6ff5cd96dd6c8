"""Flow annealed importance sampling bootstrap (FAB): an augmented coupling flow learns a target from its energy alone.

The alpha-divergence with alpha = 2, the integral of p²/q, is the variance of the weights. Its gradient is that of -E[log q] over the
density g ∝ p²/q, held fixed. Draws of the flow are annealed towards g and kept in a buffer with their weights, so that one pass serves many
steps. All densities are joint ones of positions and copies.

Source: Midgley, Stimper, Simm, Schölkopf and Hernández-Lobato, ICLR 2023, arXiv:2208.01893; for this flow Midgley, Stimper et al., NeurIPS
2023, arXiv:2308.10364, section 4.3.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from boltzflow import config
from boltzflow.counting import Evaluations
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.objectives import buffer as buffers
from boltzflow.objectives.augmented_likelihood import penalty_of, refuse_penalty
from boltzflow.objectives.augmented_path_gradient import pull_of_target
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal
from boltzflow.objectives.buffer import Buffer, Items
from boltzflow.objectives.reverse_kl import precision_of
from boltzflow.sampling.correct import annealing
from boltzflow.sampling.correct.annealing import Cloud
from boltzflow.sampling.correct.moves import walk
from boltzflow.sampling.correct.spaces import Space

# What a step size changes by after each pass.
_GAIN = 1.02


class Seen(NamedTuple):
    """Figures of the last pass and of the last draw from the buffer, which stay until there are others.

    Attributes:
        acceptance: mean over the temperatures.
        step_size: of the moves, geometric mean over the temperatures.
        ais_ess: effective sample size of the pass, as a share.
        non_finite: share of the pass that has no weight.
        buffer_ess: effective sample size of the buffer, as a share of what is filled.
        truncated_weights: how many of its weights were cut for the draw.
    """

    acceptance: Float[Array, ""]
    step_size: Float[Array, ""]
    ais_ess: Float[Array, ""]
    non_finite: Float[Array, ""]
    buffer_ess: Float[Array, ""]
    truncated_weights: Float[Array, ""]


class Kept(NamedTuple):
    """What is kept between steps.

    Attributes:
        buffer: points with their weights.
        chosen: places in it of what the steps until the next pass learn from, B for each.
        step_sizes: of the moves at each temperature.
        done: steps of the stage that were done.
        seen: figures.
    """

    buffer: Buffer
    chosen: Int[Array, " k"]
    step_sizes: Float[Array, " T"]
    done: Int[Array, ""]
    seen: Seen


class Weighted(NamedTuple):
    """What a step learns from.

    Attributes:
        coordinates: points, (B, M), as `Space` has them.
        ratio: weight of each; NaN for those that are left out.
        score: gradient of log p at the points, (B, M); (B, 0) where the steps do without.
    """

    coordinates: Float[Array, "B M"]
    ratio: Float[Array, " B"]
    score: Float[Array, "B S"]


@dataclasses.dataclass(frozen=True)
class FAB(config.FAB, AbstractObjective):
    """-log q(x, a) of points drawn from a buffer of annealed draws of the flow, whose density is p²/q; or their path gradients.

    With z the latent point of x, and r(z) = log p(x) - log q(x), the gradient of the divergence ∫p²/q is 2 E[∂r/∂z · dz/dθ] over p²/q
    but for a factor: what hangs on θ at fixed z is turned into a path by partial integration, as in doubly reparametrised gradients
    (Tucker, Lawson, Gu and Maddison, ICLR 2019, arXiv:1810.04152; paths from the target: Vaitl et al., ICLR 2024, arXiv:2403.15881). It
    is zero at each point where the flow is exact.
    """

    needs: ClassVar[Needs] = Needs(frames=False, energy=True, gradient=True)
    on_host: ClassVar[bool] = False

    def check(self) -> None:
        """Refuses a weight of the penalty where there are no frames of three particles."""
        super().check()
        refuse_penalty(self.collinearity, config.FAB().collinearity, self.setting.flow.dimension)

    def init(self, *, key: PRNGKeyArray) -> Kept:
        """An empty buffer; the first step fills it."""
        size, flow = self.setting.batch_size, self.setting.flow
        dtype = precision_of(flow)
        return Kept(
            buffers.empty(self.capacity * size, self._space(flow.network).size, dtype, scores=self._by_path),
            jnp.zeros(self.updates * size, jnp.int32),
            jnp.full(self.temperatures, self.step_size, dtype),
            jnp.zeros((), jnp.int32),
            Seen(*(jnp.zeros((), dtype) for _ in Seen._fields)),
        )

    def propose(self, state: Kept, network: CouplingStack, frames: Any, *, step: Any, key: PRNGKeyArray | None) -> Proposal:
        """Makes a pass and draws from the buffer when it is time, and gives each step its part of the draw."""
        size, space = self.setting.batch_size, self._space(network)
        key_pass, key_draw = jax.random.split(cast(Any, key))
        place = state.done % self.updates
        # One loop for the first fill and for later passes: the program of a pass takes long to compile.
        passes = jnp.where(place > 0, 0, jnp.where(state.done == 0, self.least, 1))
        state = jax.lax.fori_loop(0, passes, lambda i, kept: self._with_pass(space, kept, key=jax.random.fold_in(key_pass, i)), state)
        state = self._with_draw(state, place == 0, key=key_draw)

        own = jax.lax.dynamic_slice_in_dim(state.chosen, place * size, size)
        points = state.buffer.items.coordinates[own]
        log_q = jax.lax.map(space.log_q, points, batch_size=self._chunk)
        buffer, change = buffers.corrected(state.buffer, own, log_q)
        ratio = jnp.minimum(jnp.exp(change), self.clip_ratio)
        share = buffers.filled(buffer, size) / (self.capacity * size)
        clipped = jnp.mean(change > math.log(self.clip_ratio))
        figures = {**state.seen._asdict(), "filled": share, "clipped_ratios": clipped}
        spent = Evaluations(gradients=cast(int, passes * size * (1 + self.temperatures * self.leapfrog)))
        batch = Weighted(points, ratio, state.buffer.items.score[own])
        return Proposal(state._replace(buffer=buffer, done=state.done + 1), batch, figures, spent)

    def losses(self, network: CouplingStack, batch: Weighted) -> Float[Array, " B"]:
        """Negative joint log density of each point in units of the prior, times its weight, with the weighted penalty.

        By path gradients the value is the weight times log p - log q but for what does not hang on the flow; there is no penalty.
        """
        space = self._space(network)
        flow, collinearity = cast(AugmentedCouplingFlow, space.flow), penalty_of(self.collinearity, space.flow.dimension)

        def likelihood(coordinates: Float[Array, " M"], ratio: Float[Array, ""]) -> Float[Array, ""]:
            density = flow.joint(space.channels(coordinates))
            return -ratio * density.log_q + collinearity * density.collinearity

        def pulled(coordinates: Float[Array, " M"], ratio: Float[Array, ""], score: Float[Array, " M"]) -> Float[Array, ""]:
            def log_p(channels: Float[Array, "N K D"]) -> Float[Array, ""]:
                return jnp.dot(score, space.coordinates_of(channels) - coordinates)

            return ratio * pull_of_target(flow, space.channels(coordinates), log_p, clip=self.clipped_at)

        ratio = jax.lax.stop_gradient(batch.ratio)
        if self._by_path:
            return jax.vmap(pulled)(batch.coordinates, ratio, batch.score)
        return jax.vmap(likelihood)(batch.coordinates, ratio)

    @property
    def _by_path(self) -> bool:
        return self.estimator == "path-gradient"

    def _space(self, network: eqx.Module) -> Space:
        return Space(self.setting.flow.with_network(network), self.setting.target, geometric=True)

    @property
    def _chunk(self) -> int:
        """Points side by side: a part of the batch, so that none are left over, whose program would be another."""
        size, most = self.setting.batch_size, self.setting.flow.chunk_size
        return max(part for part in range(1, min(size, most) + 1) if size % part == 0)

    def _with_pass(self, space: Space, kept: Kept, *, key: PRNGKeyArray) -> Kept:
        """Draws of the flow annealed to p²/q, in place of the oldest in the buffer."""
        cloud, acceptance = self.annealed(space, kept.step_sizes, key=key)
        parts = cloud.walkers.parts
        score = parts.grad_p if self._by_path else parts.grad_p[:, :0]
        fresh = Items(cloud.walkers.coordinates, cloud.log_weight, parts.log_q, score)
        seen = kept.seen._replace(
            acceptance=jnp.mean(acceptance),
            step_size=jnp.exp(jnp.mean(jnp.log(kept.step_sizes))),
            ais_ess=annealing.effective_share(cloud.log_weight),
            non_finite=jnp.mean(jnp.isneginf(cloud.log_weight), dtype=acceptance.dtype),
        )
        longer = jnp.where(acceptance > self.target_acceptance, _GAIN, 1.0 / _GAIN)
        return kept._replace(buffer=buffers.written(kept.buffer, fresh), step_sizes=kept.step_sizes * longer, seen=seen)

    def annealed(self, space: Space, step_sizes: Float[Array, " T"], *, key: PRNGKeyArray) -> tuple[Cloud, Float[Array, " T"]]:
        """A batch of draws of the flow annealed to p²/q, and the acceptance at each temperature.

        The exponentials of the log weights have the mean Z², the integral of p²/q, whatever the step sizes are.
        """
        key_start, key_moves = jax.random.split(key)
        dtype, change = step_sizes.dtype, jnp.asarray(2.0 / (self.temperatures + 1), step_sizes.dtype)
        cloud = annealing.start(space, size=self.setting.batch_size, chunk=self._chunk, key=key_start)
        masses = jnp.ones(space.size, dtype)

        def stage(cloud: Cloud, inputs: tuple[Array, Array, PRNGKeyArray]) -> tuple[Cloud, Float[Array, ""]]:
            b, step, key = inputs
            cloud = annealing.reweighted(cloud, change)
            walkers, rate = walk(space.parts, cloud.walkers, b, step, masses, moves=1, leapfrog=self.leapfrog, chunk=self._chunk, key=key)
            return Cloud(walkers, cloud.log_weight), rate

        rungs = jnp.arange(1, self.temperatures + 1, dtype=dtype) * change
        cloud, acceptance = jax.lax.scan(stage, cloud, (rungs, step_sizes, jax.random.split(key_moves, self.temperatures)))
        return annealing.reweighted(cloud, change), acceptance

    def _with_draw(self, kept: Kept, due: Array, *, key: PRNGKeyArray) -> Kept:
        """With a new choice of what the next steps learn from, if it is due."""
        size = self.setting.batch_size

        def anew() -> tuple[Array, Array, Array]:
            log_weight, count = kept.buffer.items.log_weight, buffers.filled(kept.buffer, size)
            weights, cut = buffers.truncated(log_weight, count)
            share = annealing.effective_share(log_weight) * log_weight.size / count
            places = buffers.drawn(weights, self.updates * size, key=key)
            return places.astype(jnp.int32), share.astype(log_weight.dtype), cut.astype(log_weight.dtype)

        chosen, share, cut = jax.lax.cond(due, anew, lambda: (kept.chosen, kept.seen.buffer_ess, kept.seen.truncated_weights))
        return kept._replace(chosen=chosen, seen=kept.seen._replace(buffer_ess=share, truncated_weights=cut))
