"""What all objectives have in common: what they keep between steps, what a step learns from, and the loss of each configuration."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, cast

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from boltzflow import config
from boltzflow.analysis.weights import normalized
from boltzflow.counting import Evaluations
from boltzflow.errors import ConfigError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import energy_that_counts
from boltzflow.targets.base import Target


class Needs(NamedTuple):
    """What an objective asks for; checked before the first step.

    Example:
        >>> bf.objectives.Needs(frames=False, energy=True).gradient
        False

    Attributes:
        frames: configurations of the target; without the need, it is given none.
        energy: its energy.
        gradient: the gradient of its energy, too.
    """

    frames: bool = True
    energy: bool = False
    gradient: bool = False


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an objective is told once, before its first step.

    Example:
        >>> setting = bf.objectives.Setting(model.flow, target, batch_size=8, seed=0)
        >>> setting.target.name
        'double_well'

    Attributes:
        flow: the flow as it is before the first step; the network that is trained is given to each method.
        target: the target.
        batch_size: configurations B of a step.
        seed: seed of the run.
        threads: threads for work on the host.
        log_weight: log-weights (n,) of the frames, which `drawn` respects; None where they count alike.
        mesh: devices that share the batch, with one axis "data"; None: where JAX puts it.
    """

    flow: AbstractFlow
    target: Target
    batch_size: int
    seed: int = 0
    threads: int = 1
    mesh: jax.sharding.Mesh | None = None
    log_weight: Float[np.ndarray, " n"] | None = None

    @functools.cached_property
    def energy(self) -> Callable[[Float[Array, "N D"]], Float[Array, ""]]:
        """Reduced energy of the configuration that counts for one of the flow, in data units (`flows.images`)."""
        return energy_that_counts(self.flow, self.target)

    def drawn(self, rng: np.random.Generator, frames: Float[np.ndarray, "n N D"]) -> Float[np.ndarray, "B N D"]:
        """The frames of a batch, drawn with replacement, by their weights where they do not count alike.

        Args:
            rng: random numbers of the step.
            frames: (n, N, D) in units of the prior.
        """
        if self.log_weight is None:
            return frames[rng.integers(len(frames), size=self.batch_size)]
        shares, last = self._shares
        return frames[np.minimum(np.searchsorted(shares, rng.random(self.batch_size), side="right"), last)]

    @functools.cached_property
    def _shares(self) -> tuple[Float[np.ndarray, " n"], int]:
        """Summed weights, up to one, and the last frame that has any."""
        weight = normalized(self.log_weight)
        total = np.cumsum(weight)
        # Rounding may leave the last sum below a random number.
        return total / total[-1], int(np.flatnonzero(weight)[-1])

    def rng(self, stream: int, step: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the step alone; objectives have streams of their own.

        Args:
            stream: number of the stream, one for each objective.
            step: steps done before in the whole run.
        """
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, stream, step]))


class Proposal(NamedTuple):
    """What a step learns from.

    Example:
        >>> proposal = bf.objectives.Proposal(state=(), batch={"x": jnp.zeros((8, 4, 2))}, figures={"spread": 1.0})
        >>> proposal.evaluations.total
        0

    Attributes:
        state: what the objective keeps for the next step.
        batch: a pytree of arrays with the leading axis B; a configuration with a number that is not finite is left out.
        figures: numbers for the log by name.
        evaluations: of the energy in the whole step, those of `losses` too.
    """

    state: PyTree
    batch: PyTree
    figures: Mapping[str, Any] = {}  # noqa: RUF012 (never changed)
    evaluations: Evaluations = Evaluations()


class Renewal(NamedTuple):
    """What an objective that makes frames of its own has made.

    Example:
        >>> bf.objectives.Renewal(state=(), figures={"temperature": 2.0}).figures
        {'temperature': 2.0}

    Attributes:
        state: what the objective keeps for the next step, the frames among it.
        figures: numbers for the log by name.
        evaluations: of the energy.
    """

    state: PyTree
    figures: Mapping[str, Any] = {}  # noqa: RUF012 (never changed)
    evaluations: Evaluations = Evaluations()


@dataclasses.dataclass(frozen=True)
class AbstractObjective(config.Objective, abc.ABC):
    """What is minimised: a frozen dataclass of options, with three methods.

    `init` makes what is kept between steps, `propose` makes the batch of a step, `losses` gives the loss of each of its configurations.
    One that makes frames of its own says by `interval` how often, makes them in `renew`, and `frames_in` finds them in what is kept.

    Example:
        >>> issubclass(bf.objectives.FlowMatching, bf.AbstractObjective)
        True

    Class attributes:
        needs: what must be there.
        weighted: whether it respects the weights of frames that do not count alike, as it does if it draws them by `setting.drawn`; else
            such frames are refused.
        on_host: True: `propose` depends on frames and step alone, keeps no state, and is called ahead in a thread, with no network. False:
            it is compiled, and gets the state and the network with its present parameters.
        flows, measure, expensive: as in `config.Objective`.

    Attributes:
        setting: what it was bound to; see `bound`.
    """

    needs: ClassVar[Needs] = Needs()
    weighted: ClassVar[bool] = False
    on_host: ClassVar[bool] = True

    setting: Setting = dataclasses.field(default=cast(Setting, None), kw_only=True, repr=False, compare=False, metadata={"option": False})

    def bound(self, setting: Setting) -> Self:
        """The objective in a setting.

        Args:
            setting: what it works in.

        Raises:
            ConfigError: if what it needs is not there.
        """
        told = dataclasses.replace(self, setting=setting)
        told.check()
        return told

    def check(self) -> None:
        """Refuses a setting that it cannot work in.

        Raises:
            ConfigError: says what is missing.
        """
        if (self.needs.energy or self.needs.gradient) and not self.setting.target.has_energy:
            raise ConfigError(
                f"the objective {self.variant} needs an energy, and target {self.setting.target.name!r} has none; leave its stage out."
            )
        if self.setting.log_weight is not None and self.needs.frames and not self.weighted:
            raise ConfigError(
                f"the frames are weighted, and the objective {self.variant} takes all frames alike; let it draw them by setting.drawn and "
                "say so (weighted = True), or give it frames that count alike: data.equally_weighted()."
            )

    def init(self, *, key: PRNGKeyArray) -> PyTree:
        """What is kept between steps: arrays of fixed shapes, saved with every checkpoint. By default nothing.

        Args:
            key: of the random numbers.
        """
        return ()

    @property
    def interval(self) -> int:
        """Steps of a stage between two renewals of the frames that it makes for itself, one of them before its first step; 0: none."""
        return 0

    def renew(self, state: PyTree, flow: AbstractFlow, frames: Any, *, step: int, report: Callable[[str], None]) -> Renewal:
        """Makes the frames that the next `interval` steps learn from, on the host, where whole programs may be run.

        Args:
            state: what is kept.
            flow: with the averaged parameters.
            frames: as for `propose`.
            step: steps done before in the whole run.
            report: told what people should know, in sentences.
        """
        raise NotImplementedError

    def frames_in(self, state: PyTree) -> Any:
        """What `propose` is given as frames after a renewal, in what is kept: arrays in units of the prior.

        Args:
            state: what is kept.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def propose(self, state: PyTree, network: Any, frames: Any, *, step: Any, key: PRNGKeyArray | None) -> Proposal:
        """Makes the batch of a step, and the state after it.

        Args:
            state: what is kept; `()` on the host.
            network: what is trained, with its present parameters; None on the host.
            frames: data in units of the prior, centred, (n, N, D), in the precision of the run; none of them where `needs` does not name
                them.
            step: steps done before in the whole run.
            key: depends on seed and step alone; None on the host, where `setting.rng` serves.
        """

    @abc.abstractmethod
    def losses(self, network: Any, batch: Any, /) -> Float[Array, " B"]:
        """Loss of each configuration of a batch, whose mean is minimised; one that is not finite is left out and counted.

        Args:
            network: what is trained, with its present parameters.
            batch: that of a `Proposal`, with the leading axis B.
        """
