"""What types cannot say of a configuration: ranges, options that must fit one another, and options that would have no effect."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from boltzflow.config import RunConfig
from boltzflow.errors import ConfigError
from boltzflow.seeds import LARGEST

# Steps and particles are counted in 32 bits, and what is far outside of the others under- or overflows in single precision.
_MOST, _LARGEST, _SMALLEST = 2**31 - 1, 1e12, 1e-12

_POSITIVE = "greater than 0"
_SEEDS = ("data.seed", "data.split_seed", "training.seed")

_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        "data.n flow.layers flow.hidden flow.channels flow.solver.steps flow.solver.max_steps flow.solver.probes training.steps "
        "training.batch_size training.microbatch training.log_every training.checkpoint_every training.keep_checkpoints "
        "training.evaluate_n flow.coupling.blocks flow.coupling.augmented flow.coupling.layers flow.coupling.features "
        "flow.coupling.width flow.coupling.marginal_draws objective.nodes refinement.batch_size refinement.microbatch refinement.nodes "
        "flow.solver.grading refinement.grading",
        "at least 1",
        lambda value: value >= 1,
    ),
    (
        "data.validation flow.radial training.warmup_steps training.devices flow.softening flow.coupling.bins flow.coupling.radial "
        "objective.collinearity training.evaluate_every objective.sigma training.final_learning_rate training.weight_decay "
        "refinement.steps refinement.warmup_steps refinement.final_learning_rate",
        "0 or more",
        lambda value: value >= 0,
    ),
    (" ".join(_SEEDS), f"a whole number from 0 to {LARGEST}", lambda value: 0 <= value <= LARGEST),
    (
        "flow.solver.rtol flow.solver.atol flow.cutoff flow.reach flow.scale training.learning_rate training.clip_norm "
        "flow.coupling.noise flow.coupling.reach flow.coupling.stiffness training.clip_median training.skip_median "
        "refinement.learning_rate refinement.clip",
        _POSITIVE,
        lambda value: value > 0,
    ),
    ("objective.late_time", "between 0 and 1", lambda value: 0 <= value <= 1),
    ("training.ema_decay refinement.ema_decay", "at least 0 and below 1", lambda value: 0 <= value < 1),
)


def check(config: RunConfig) -> None:
    """Checks ranges, and options that must fit one another.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    data = dataclasses.asdict(config)
    for names, allowed, test in _RANGES:
        for name in names.split():
            value = _lookup(data, name)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and test(value)):
                raise ConfigError(f"{name} must be {allowed}, got {value}.")
            if value is None or name in _SEEDS:
                continue
            most = _MOST if isinstance(value, int) else _LARGEST
            if value > most:
                raise ConfigError(f"{name} must be at most {most:.15g}, got {value}.")
            if allowed == _POSITIVE and value < _SMALLEST:
                raise ConfigError(f"{name} must be at least {_SMALLEST:g}, got {value}.")
    training, flow = config.training, config.flow
    if training.batch_size % training.microbatch:
        raise ConfigError(
            f"training.microbatch must divide training.batch_size, but {training.batch_size} is no multiple of {training.microbatch}."
        )
    if training.devices > 1 and training.batch_size % training.devices:
        raise ConfigError(
            f"training.devices must divide training.batch_size, but {training.batch_size} is no multiple of {training.devices}."
        )
    if training.final_learning_rate > training.learning_rate:
        raise ConfigError(
            f"training.final_learning_rate must not be above training.learning_rate ({training.learning_rate}), got "
            f"{training.final_learning_rate}."
        )
    if flow.family == "eacf":
        if flow.coupling.augmented % 2 == 0:
            raise ConfigError(
                f"flow.coupling.augmented must be odd, so that positions and copies fall into two groups of one size, got "
                f"{flow.coupling.augmented}."
            )
        if config.objective.method == "flow-matching":
            raise ConfigError("a coupling flow is trained by maximum likelihood; leave out objective.method=flow-matching.")
        if flow.coupling.bins == 0 and flow.coupling.projection not in ("cartesian", "none"):
            raise ConfigError("flow.coupling.bins must be at least 1 unless flow.coupling.projection is 'cartesian', got 0.")
        if flow.coupling.projection == "none" and flow.coupling.features % 4:
            raise ConfigError(f"flow.coupling.features must be a multiple of 4 for the projection 'none', got {flow.coupling.features}.")
    elif flow.network == "two-interaction" and flow.radial < 1:
        raise ConfigError("flow.radial must be at least 1 for the two-interaction network, got 0.")
    if config.data.path is None and config.data.n <= config.data.validation:
        raise ConfigError(
            f"data.n ({config.data.n}) must be larger than data.validation ({config.data.validation}), or nothing is left to train on."
        )


def without_effect(config: RunConfig) -> dict[str, str]:
    """Options that this configuration sets to other values than their defaults and that change nothing in it, and why."""
    data, plain = dataclasses.asdict(config), dataclasses.asdict(RunConfig(target=""))
    found: dict[str, str] = {}
    for names, applies, reason in _APPLIES:
        if applies(config):
            continue
        for name in names.split():
            if _lookup(data, name) != _lookup(plain, name):
                found.setdefault(name, reason)
    return found


def refuse_without_effect(config: RunConfig, *, given: Collection[str] | None = None) -> None:
    """Refuses options that change nothing.

    Args:
        config: the configuration.
        given: dotted names of the options that somebody has asked for; None: all that differ from their defaults, but for those of a
            refinement that is not made, which stand by for the day when it is.

    Raises:
        ConfigError: names the first of them.
    """
    for name, reason in without_effect(config).items():
        if (name in given) if given is not None else not name.startswith("refinement."):
            raise ConfigError(f"{name}={_lookup(dataclasses.asdict(config), name)} would have no effect: {reason}; leave it out.")


def effective(data: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """The options of a configuration as nested mappings, those without effect at their defaults.

    So a preset says what it does, whatever the preset that it starts from was made for. The options of a refinement stay, for a
    refinement may be asked for later.
    """
    plain, result = dataclasses.asdict(RunConfig(target="")), _copied(data)
    for name in without_effect(config):
        if name.startswith("refinement."):
            continue
        *parents, last = name.split(".")
        section = result
        for parent in parents:
            section = section.get(parent, {})
        if last in section:
            section[last] = _lookup(plain, name)
    return result


def _eacf(config: RunConfig) -> bool:
    return config.flow.family == "eacf"


def _network(name: str) -> Callable[[RunConfig], bool]:
    # Of another family it is said that the whole network does not count.
    return lambda config: _eacf(config) or config.flow.network == name


def _projection(*names: str) -> Callable[[RunConfig], bool]:
    return lambda config: not _eacf(config) or config.flow.coupling.projection in names


def _solver(*names: str) -> Callable[[RunConfig], bool]:
    return lambda config: _eacf(config) or config.flow.solver.method in names


def _matching(config: RunConfig) -> bool:
    return not _eacf(config) and config.objective.method != "maximum-likelihood"


_FLOW = "network layers hidden attention radial reach softening fine_time channels typed_pairs cutoff".split()
_SOLVER = "method rtol atol steps grading max_steps divergence probes".split()
_COUPLING = "projection blocks augmented noise layers features width radial bins reach mirror scaling base stiffness marginal_draws".split()
_REFINEMENT = "divergence batch_size microbatch nodes grading learning_rate final_learning_rate warmup_steps ema_decay clip".split()

# Options, when they apply, and what is said where they do not.
_APPLIES: tuple[tuple[str, Callable[[RunConfig], bool], str], ...] = (
    (
        " ".join([*(f"flow.{name}" for name in _FLOW), *(f"flow.solver.{name}" for name in _SOLVER)]),
        lambda config: not _eacf(config),
        "it belongs to flow.family=ecnf, and a coupling flow (eacf) is described by flow.coupling",
    ),
    (" ".join(f"flow.coupling.{name}" for name in _COUPLING), _eacf, "it belongs to flow.family=eacf, and flow.family is ecnf"),
    (
        "flow.softening flow.fine_time flow.channels flow.typed_pairs",
        _network("two-interaction"),
        "it belongs to flow.network=two-interaction, and flow.network is egnn",
    ),
    ("flow.attention", _network("egnn"), "it belongs to flow.network=egnn, and flow.network is two-interaction"),
    ("flow.reach", lambda config: _eacf(config) or config.flow.radial > 0, "it is the reach of radial functions, and flow.radial is 0"),
    (
        "flow.coupling.width flow.coupling.radial flow.coupling.bins flow.coupling.reach",
        _projection("cartesian", "spherical", "vector"),
        "flow.coupling.projection is 'none', whose layers have no such option",
    ),
    ("flow.coupling.mirror", _projection("spherical"), "it belongs to flow.coupling.projection=spherical"),
    (
        "flow.coupling.reach",
        lambda config: not _eacf(config) or config.flow.coupling.bins > 0,
        "it is the reach of splines, and flow.coupling.bins is 0",
    ),
    (
        "flow.coupling.stiffness",
        lambda config: not _eacf(config) or config.flow.coupling.base == "harmonic",
        "it belongs to flow.coupling.base=harmonic, and flow.coupling.base is normal",
    ),
    (
        "flow.solver.rtol flow.solver.atol flow.solver.max_steps",
        _solver("dopri5", "tsit5"),
        "it belongs to the adaptive methods, dopri5 and tsit5, and flow.solver.method is another",
    ),
    ("flow.solver.steps", _solver("rk4", "gauss-legendre"), "it belongs to rk4 and gauss-legendre, and flow.solver.method is adaptive"),
    ("flow.solver.grading", _solver("gauss-legendre"), "it belongs to flow.solver.method=gauss-legendre"),
    (
        "flow.solver.probes",
        lambda config: _eacf(config) or config.flow.solver.divergence == "hutchinson",
        "it belongs to flow.solver.divergence=hutchinson",
    ),
    (
        "objective.path objective.pairing objective.full_cost objective.sigma objective.late_time",
        _matching,
        "it belongs to flow matching, and this run is trained by maximum likelihood",
    ),
    (
        "objective.full_cost",
        lambda config: not _matching(config) or config.objective.pairing == "equivariant-optimal-transport",
        "it belongs to objective.pairing=equivariant-optimal-transport",
    ),
    (
        "objective.nodes objective.divergence",
        lambda config: not _eacf(config) and not _matching(config),
        "it belongs to the maximum likelihood of a continuous flow (objective.method=maximum-likelihood with flow.family=ecnf)",
    ),
    ("objective.collinearity", _eacf, "it belongs to flow.family=eacf, and flow.family is ecnf"),
    (
        "training.evaluate_n",
        lambda config: config.training.evaluate_every > 0,
        "training.evaluate_every is 0, so that nothing is evaluated during training",
    ),
    ("data.n data.seed", lambda config: config.data.path is None, "frames are read from data.path, not made"),
    (
        " ".join(f"refinement.{name}" for name in _REFINEMENT),
        lambda config: config.refinement.steps > 0,
        "refinement.steps is 0, so that nothing is refined",
    ),
    (
        "refinement.nodes refinement.grading",
        lambda config: not _eacf(config),
        "the path gradients of a coupling flow (flow.family=eacf) need no solver",
    ),
)


def check_for_dimension(config: RunConfig, dimension: int) -> None:
    """Refuses a penalty against collinear frames where there are no frames of three particles.

    Raises:
        ConfigError: if the dimension is not 3 and a weight was chosen for the penalty.
    """
    weight = config.objective.collinearity
    if _eacf(config) and dimension != 3 and weight not in (0.0, RunConfig(target="").objective.collinearity):
        raise ConfigError(
            f"objective.collinearity={weight} would have no effect: the target has {dimension} dimensions, and frames degenerate in three "
            "alone; leave it out."
        )


def _lookup(data: Mapping[str, Any], name: str) -> Any:
    value: Any = data
    for part in name.split("."):
        value = value[part]
    return value


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in data.items()}
