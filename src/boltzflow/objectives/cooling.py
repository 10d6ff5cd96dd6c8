"""From energies alone, by cooling: a flow learns hot chains, and then, rung by rung, what its own samples tell of lower temperatures.

With U and log q of a sample known, its weight at every temperature T is exp(-U / kT) / q, at no new energy. The samples stand for the
lowest temperature at which enough of them keep a weight; there they are resampled, moved by Hamiltonian Monte Carlo, and learnt from.
After the target's temperature has been reached, further rungs are of that temperature.

Sources: temperature-annealed Boltzmann generators, ICML 2025, arXiv:2501.19077; the moves, and the bound on the entropy, from work on
annealed and constrained transport that is named in `docs/energies.md`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from boltzflow import config
from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.analysis.weights import resample_indices
from boltzflow.chemistry.amides import amide_torsions
from boltzflow.counting import Evaluations
from boltzflow.datasets import has_gradient
from boltzflow.errors import ConfigError, DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.status import Status
from boltzflow.objectives import rungs
from boltzflow.objectives.base import AbstractObjective, Needs, Proposal, Renewal
from boltzflow.reference import default_temperatures, sample
from boltzflow.sampling.generate import generate
from boltzflow.targets.base import Target

# Random numbers of the renewals, apart from those of the objectives that learn.
_STREAM = 7
# Of the moves, as a share of the target's size per coordinate, before the acceptance has been seen.
_FIRST_STEP = 0.02
# Effective samples with fewer of which a rung is not left; of few frames a tenth of them.
_LEAST = 100
# Chains of the hot start.
_CHAINS = 32
# Walkers moved side by side.
_CHUNK = 256
# A basin is lost when its share falls from more than the first to less than the second.
_SEEN, _LOST = 0.01, 0.001


class Rung(NamedTuple):
    """What is kept between steps.

    Attributes:
        frames: that the steps learn from, (n, N, D) in units of the prior.
        temperature: theirs, as a multiple of the target's; 0 before the first rung.
        step: step size of the moves, in units of the prior.
        done: rungs so far.
        basin: share of the frames with phi > 0, the rarer basin of a peptide; NaN where there is no backbone.
    """

    frames: Float[Array | np.ndarray, "n N D"]
    temperature: Float[Array | np.ndarray, ""]
    step: Float[Array | np.ndarray, ""]
    done: Int[Array | np.ndarray, ""]
    basin: Float[Array | np.ndarray, ""]


class Moved(NamedTuple):
    """Frames after their moves.

    Attributes:
        positions: (n, N, D) in the target's units.
        step: step size that the acceptance suggests.
        figures: for the log; none where nothing was moved.
        evaluations: what it took.
    """

    positions: Float[np.ndarray, "n N D"]
    step: float
    figures: dict[str, float]
    evaluations: Evaluations


@dataclasses.dataclass(frozen=True)
class Cooling(config.Cooling, AbstractObjective):
    """Learns hot chains, then the flow's own samples, weighted, resampled and moved at ever lower temperatures."""

    weighted: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride] (an option decides)
        """Energies, and frames where it starts from them."""
        return Needs(frames=self.start == "frames", energy=True)

    def check(self) -> None:
        """Refuses what cannot teach, and moves of an energy without a gradient."""
        super().check()
        inner = self._learning
        if not inner.on_host or inner.interval or inner.needs != Needs():
            raise ConfigError(
                f"cooling learns from frames alone, and the objective {inner.variant} needs more; choose another for `learn`."
            )
        if self.moves and not has_gradient(self.setting.target):
            raise ConfigError(
                f"the energy of target {self.setting.target.name!r} has no gradient, which Hamiltonian moves need; let it return (energy, "
                "gradient), or set moves=0, and frames are weighted and resampled by energies alone."
            )

    @functools.cached_property
    def _learning(self) -> AbstractObjective:
        """`learn`, which is made with this one; the frames of a rung count alike, whatever those of the run do."""
        learning = cast(AbstractObjective, self.learn)
        return learning.bound(dataclasses.replace(self.setting, log_weight=None)) if self.setting.log_weight is not None else learning

    @functools.cached_property
    def _walled(self) -> Target:
        """The target, infinite where a configuration is not permitted."""
        return rungs.walled(self.setting.target, trans=self.trans)

    @property
    def _hottest(self) -> float:
        if self.start != "chains":
            return 1.0
        return default_temperatures(self.setting.target)[-1] if self.hottest is None else self.hottest

    @property
    def interval(self) -> int:
        """Steps on a rung."""
        return self.rung_steps

    def init(self, *, key: PRNGKeyArray) -> Rung:
        """No frames yet."""
        shape = (self.frames, self.setting.target.n_particles, self.setting.target.dimension)
        nothing = jnp.zeros(())
        return Rung(
            jnp.zeros(shape, nothing.dtype), nothing, jnp.full_like(nothing, _FIRST_STEP), jnp.zeros((), jnp.int32), nothing + jnp.nan
        )

    def frames_in(self, state: Rung) -> Float[np.ndarray, "n N D"]:
        """Those of the rung."""
        return np.asarray(state.frames)

    def propose(self, state: Any, network: Any, frames: Any, *, step: int, key: Any = None) -> Proposal:
        """As the objective that learns does it."""
        return self._learning.propose(state, network, frames, step=step, key=key)

    def losses(self, network: Any, batch: Any, /) -> Float[Array, " B"]:
        """As the objective that learns does it."""
        return self._learning.losses(network, batch)

    def renew(self, state: Rung, flow: AbstractFlow, frames: Any, *, step: int, report: Callable[[str], None]) -> Renewal:
        """The frames of the next rung."""
        rng = self.setting.rng(_STREAM, step)
        if state.done == 0 and self.start == "chains":
            return self._from_chains(state, rng, report)
        if state.done == 0:
            state = state._replace(temperature=np.ones_like(state.temperature))
            if self.start == "frames":
                return self._from_frames(state, flow, frames, rng)
        return self._from_flow(state, flow, rng, report)

    def _from_chains(self, state: Rung, rng: np.random.Generator, report: Callable[[str], None]) -> Renewal:
        """Frames of chains at the hottest temperature."""
        target = rungs.walled(self.setting.target, trans=self.trans, temperature=self._hottest)
        result = sample(
            target, self.frames, seed=int(rng.integers(2**31)), temperatures=(1.0,), chains=self.chains or _CHAINS, progress=False
        )
        if not result.diagnostics["converged"]:
            report(f"Hot chains: {result.sentence()} A higher temperature (hottest, {self._hottest:g} now) lets them mix.")
        positions = result.dataset.positions
        if not np.isfinite(positions).all():
            raise DataError(f"the chains at {self._hottest:g} times the target's temperature came apart; lower the temperature (hottest).")
        spent = Evaluations.of_meta(result.dataset.provenance) or Evaluations()
        figures = {"temperature": self._hottest, **self._basins(positions)}
        return Renewal(self._rung(state, positions, self._hottest, state.step, figures), figures, spent)

    def _from_frames(self, state: Rung, flow: AbstractFlow, frames: Float[np.ndarray, "m N D"], rng: np.random.Generator) -> Renewal:
        """Those of the run, each as often as another, or as its weight says, and moved apart."""
        if self.setting.log_weight is None:
            chosen = rng.permutation(np.arange(self.frames) % len(frames))
        else:
            chosen = resample_indices(self.setting.log_weight, self.frames, seed=int(rng.integers(2**31)))
        moved = self._moved(flow, frames[chosen] * self.setting.flow.scale, 1.0, state, rng)
        figures = {"temperature": 1.0, "distinct": len(np.unique(chosen)) / self.frames, **self._basins(moved.positions), **moved.figures}
        return Renewal(self._rung(state, moved.positions, 1.0, moved.step, figures), figures, moved.evaluations)

    def _from_flow(self, state: Rung, flow: AbstractFlow, rng: np.random.Generator, report: Callable[[str], None]) -> Renewal:
        """Samples of the flow, brought to the next temperature."""
        current = float(state.temperature)
        samples = generate(flow, self._walled, self.frames, seed=int(rng.integers(2**31)))
        u = np.where(np.asarray(samples.status) == Status.SOLVED, samples.u, np.inf)
        least = min(_LEAST, -(-self.frames // 10))
        choice = rungs.next_temperature(u, samples.log_q, current, share=self.share, entropy_drop=self.entropy_drop, least=least)
        log_weight = rungs.log_weights(u, samples.log_q, choice.temperature)
        if choice.before * self.frames < least:
            positions, distinct = self._kept(state, choice, report), 1.0
        else:
            chosen = resample_indices(log_weight, self.frames, seed=int(rng.integers(2**31)))
            positions, distinct = np.asarray(samples.positions)[chosen], len(np.unique(chosen)) / self.frames
        moved = self._moved(flow, positions, choice.temperature, state, rng)
        spent = (Evaluations.of_meta(samples.meta) or Evaluations()) + moved.evaluations
        figures = {
            "temperature": choice.temperature,
            "ess_of_rung": choice.before,
            "ess_of_step": choice.after,
            "distinct": distinct,
            "without_weight": float(np.mean(~np.isfinite(log_weight))),
            **self._basins(moved.positions),
            **moved.figures,
        }
        self._warn(state, figures, report)
        return Renewal(self._rung(state, moved.positions, choice.temperature, moved.step, figures), figures, spent)

    def _kept(self, state: Rung, choice: rungs.Choice, report: Callable[[str], None]) -> Float[np.ndarray, "n N D"]:
        """The frames before, in the target's units, which go on as chains do: few samples that all would stem from are none of the rung."""
        told = f"{choice.before:.2%} of {self.frames} samples of the flow count at {choice.temperature:.3g} times the target's temperature"
        if state.done == 0:
            raise DataError(f"{told}, too few to start from; give the stages before more steps, or start from chains or frames.")
        report(
            f"Rung {int(state.done)}: {told}, too few to learn from; the frames before are moved on and learnt once more. If this stays "
            "so, give more steps (rung_steps) or more frames."
        )
        return np.asarray(state.frames) * self.setting.flow.scale

    def _moved(
        self, flow: AbstractFlow, positions: Float[np.ndarray, "n N D"], temperature: float, state: Rung, rng: np.random.Generator
    ) -> Moved:
        """Frames moved at a temperature, if they are to be."""
        if not self.moves:
            return Moved(positions, float(state.step), {}, Evaluations())
        real = jnp.zeros(()).dtype
        found = rungs.moved(
            rungs.space_of(flow, self._walled),
            jnp.asarray(positions, real),
            jnp.asarray(temperature, real),
            jnp.asarray(state.step, real),
            key=jax.random.key(int(rng.integers(2**31))),
            moves=self.moves,
            leapfrog=self.leapfrog,
            chunk=min(_CHUNK, self.frames),
        )
        figures = {"acceptance": float(found.acceptance), "step_size": float(found.step)}
        spent = Evaluations(gradients=len(positions) * (1 + self.moves * self.leapfrog))
        return Moved(np.asarray(found.positions), float(found.step), figures, spent)

    def _rung(self, state: Rung, positions: np.ndarray, temperature: float, step: Any, figures: dict[str, float]) -> Rung:
        """What is kept, with other frames, in units of the prior and without their centres of mass."""
        kind = np.asarray(state.frames).dtype
        centred = (positions - positions.mean(axis=1, keepdims=True)) / self.setting.flow.scale
        number = np.asarray(state.temperature).dtype.type
        done = np.asarray(int(state.done) + 1, np.int32)
        return Rung(centred.astype(kind), number(temperature), number(step), done, number(figures.get("phi_positive", np.nan)))

    @functools.cached_property
    def _phi(self) -> Int[np.ndarray, "r 4"]:
        topology = self.setting.target.topology
        return np.array([residue.phi for residue in backbones(topology)] if topology is not None else [], np.int64).reshape(-1, 4)

    @functools.cached_property
    def _amides(self) -> Int[np.ndarray, "m 4"]:
        return amide_torsions(self.setting.target.elements, self.setting.target.bonds)

    def _basins(self, positions: Float[np.ndarray, "n N D"]) -> dict[str, float]:
        """Share of frames with phi > 0, averaged over residues, and of those with a cis amide; nothing where there is none of either."""
        x, found = np.asarray(positions, np.float64), {}
        if len(self._phi):
            found["phi_positive"] = float(np.mean(torsions(x, self._phi) > 0.0))
        if len(self._amides):
            found["cis"] = float(np.mean(np.any(np.cos(torsions(x, self._amides)) > 0.0, axis=1)))
        return found

    def _warn(self, state: Rung, figures: dict[str, float], report: Callable[[str], None]) -> None:
        """Tells of what goes wrong on a rung."""
        number = int(state.done)
        if figures.get("phi_positive", 1.0) < _LOST < _SEEN < float(state.basin):
            report(
                f"Rung {number}: the share of phi > 0 has fallen from {float(state.basin):.1%} to {figures['phi_positive']:.2%}; the basin "
                "may be lost. Take smaller steps of temperature (share nearer to 1) or more frames."
            )
        if figures.get("acceptance", 1.0) < 0.1:
            report(f"Rung {number}: {figures['acceptance']:.1%} of the moves were accepted, so that hardly anything moved.")
