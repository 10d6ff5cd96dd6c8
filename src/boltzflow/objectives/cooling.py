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
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from boltzflow import config
from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.analysis.weights import resample_indices
from boltzflow.chemistry.amides import amide_torsions
from boltzflow.chemistry.turning import Turns, turns_of
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

# Random numbers of the renewals and of the choice among rungs, apart from those of the objectives that learn.
_STREAM, _CHOICE = 7, 8
# Of the moves, as a share of the target's size per coordinate, before the acceptance has been seen.
_FIRST_STEP = 0.02
# Effective samples with fewer of which a rung is not left; of few frames a tenth of them.
_LEAST = 100
# Chains of the hot start, and the sweeps between two frames of one: a flow learns from correlated frames as well, and the slowest motion,
# such as an amide that turns, would ask for a hundred times the energies of all that follows.
_CHAINS, _THIN = 32, 8
# Walkers moved side by side.
_CHUNK = 256
# A basin is lost when its share falls from more than the first to less than the second.
_SEEN, _LOST = 0.01, 0.001


class Rung(NamedTuple):
    """What is kept between steps.

    Attributes:
        frames: of the rungs that the steps learn from, the present one first, (R, n, N, D) in units of the prior.
        temperatures: theirs, as multiples of the target's; 0 where there is no rung yet.
        step: step size of the moves, in units of the prior.
        done: rungs so far.
        basin: share of the frames with phi > 0, the rarer basin of a peptide; NaN where there is no backbone.
    """

    frames: Float[Array | np.ndarray, "R n N D"]
    temperatures: Float[Array | np.ndarray, " R"]
    step: Float[Array | np.ndarray, ""]
    done: Int[Array | np.ndarray, ""]
    basin: Float[Array | np.ndarray, ""]


class Ladder(NamedTuple):
    """Frames of several rungs, the present one first.

    Attributes:
        frames: (R, n, N, D), in units of the prior.
        temperatures: theirs; 0 where there is none yet.
    """

    frames: Float[np.ndarray, "R n N D"]
    temperatures: Float[np.ndarray, " R"]


class OfTemperature(NamedTuple):
    """What a step of a flow that knows the temperature learns from.

    Attributes:
        log_temperature: logarithm of the temperature, the same for the whole batch, (B,).
        batch: that of the objective that learns.
    """

    log_temperature: Float[Array | np.ndarray, " B"]
    batch: PyTree


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
        if self.remember > 1 and not self.setting.flow.tempered:
            raise ConfigError(
                f"frames of {self.remember} temperatures (remember) would teach a flow that knows one alone what is true at none; give "
                "flow.tempered=true, or remember=1."
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
        shape = (self.remember, self.frames, self.setting.target.n_particles, self.setting.target.dimension)
        nothing = jnp.zeros(())
        temperatures = jnp.zeros(self.remember, nothing.dtype)
        return Rung(
            jnp.zeros(shape, nothing.dtype), temperatures, jnp.full_like(nothing, _FIRST_STEP), jnp.zeros((), jnp.int32), nothing + jnp.nan
        )

    def frames_in(self, state: Rung) -> Float[np.ndarray, "n N D"] | Ladder:
        """Those of the rung, or of all that are remembered, with their temperatures."""
        if self.setting.flow.tempered:
            return Ladder(np.asarray(state.frames), np.asarray(state.temperatures))
        return np.asarray(state.frames)[0]

    def propose(self, state: Any, network: Any, frames: Any, *, step: int, key: Any = None) -> Proposal:
        """As the objective that learns does it, from the frames of one rung."""
        if not isinstance(frames, Ladder):
            return self._learning.propose(state, network, frames, step=step, key=key)
        rng, there = self.setting.rng(_CHOICE, step), int(np.count_nonzero(frames.temperatures))
        rung = 0 if there == 1 or rng.random() < 0.5 else int(rng.integers(1, there))
        proposal = self._learning.propose(state, network, frames.frames[rung], step=step, key=key)
        log_temperature = np.full(self.setting.batch_size, np.log(frames.temperatures[rung]), frames.temperatures.dtype)
        return proposal._replace(batch=OfTemperature(log_temperature, proposal.batch))

    def losses(self, network: Any, batch: Any, /) -> Float[Array, " B"]:
        """As the objective that learns does it."""
        if not isinstance(batch, OfTemperature):
            return self._learning.losses(network, batch)
        return self._learning.losses(network.at(jnp.asarray(batch.log_temperature)[0]), batch.batch)

    def renew(self, state: Rung, flow: AbstractFlow, frames: Any, *, step: int, report: Callable[[str], None]) -> Renewal:
        """The frames of the next rung."""
        rng = self.setting.rng(_STREAM, step)
        if state.done == 0 and self.start == "chains":
            return self._from_chains(state, rng, report)
        if state.done == 0:
            state = state._replace(temperatures=np.eye(1, self.remember, dtype=np.asarray(state.temperatures).dtype)[0])
            if self.start == "frames":
                return self._from_frames(state, flow, frames, rng)
        return self._from_flow(state, flow, rng, report)

    def _from_chains(self, state: Rung, rng: np.random.Generator, report: Callable[[str], None]) -> Renewal:
        """Frames of chains at the hottest temperature."""
        target = rungs.walled(self.setting.target, trans=self.trans, temperature=self._hottest)
        result = sample(
            target,
            self.frames,
            seed=int(rng.integers(2**31)),
            temperatures=(1.0,),
            chains=self.chains or _CHAINS,
            thin=_THIN,
            progress=False,
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
        current = float(state.temperatures[0])
        # One that knows the temperature is asked for that of the rung, whatever its network stands at.
        flow = flow.at_temperature(current) if flow.tempered else flow
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
        return np.asarray(state.frames[0]) * self.setting.flow.scale

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
            turns=self._turns,
        )
        figures = {"acceptance": float(found.acceptance), "step_size": float(found.step)}
        spent = Evaluations(gradients=len(positions) * (1 + self.moves * (self.leapfrog + (self._turns is not None))))
        return Moved(np.asarray(found.positions), float(found.step), figures, spent)

    def _rung(self, state: Rung, positions: np.ndarray, temperature: float, step: Any, figures: dict[str, float]) -> Rung:
        """What is kept, with other frames, in units of the prior and without their centres of mass."""
        frames, temperatures = np.asarray(state.frames), np.asarray(state.temperatures)
        centred = (positions - positions.mean(axis=1, keepdims=True)) / self.setting.flow.scale
        # A rung that stays at its temperature takes the place of the one before, and the first one that of nothing.
        first = 1 if not state.done or temperature == temperatures[0] else 0
        kept = slice(first, first + self.remember - 1)
        number = temperatures.dtype.type
        return Rung(
            np.concatenate([centred[None].astype(frames.dtype), frames[kept]]),
            np.concatenate([np.asarray([temperature], temperatures.dtype), temperatures[kept]]),
            number(step),
            np.asarray(int(state.done) + 1, np.int32),
            number(figures.get("phi_positive", np.nan)),
        )

    @functools.cached_property
    def _phi(self) -> Int[np.ndarray, "r 4"]:
        topology = self.setting.target.topology
        return np.array([residue.phi for residue in backbones(topology)] if topology is not None else [], np.int64).reshape(-1, 4)

    @functools.cached_property
    def _turns(self) -> Turns | None:
        target = self.setting.target
        return turns_of(target.elements, target.bonds) if target.elements and target.bonds and target.dimension == 3 else None

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
