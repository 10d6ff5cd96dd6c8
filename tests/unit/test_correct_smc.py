"""Annealing from a flow to its target: log Z without bias, exact means, and what goes wrong told in a sentence."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.analysis import weights
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.sampling import correct
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import ExactValues
from corrections import goes_on_after_trouble, normal

# Two particles in two dimensions: y = (x_1 - x_2) / sqrt 2 has no constraint.
WIDTH, APART = 0.4, 1.5


def gaussian(x):
    return 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2) / WIDTH**2


def two_rings(x):
    """A narrow and a wide mode of the length of y, which has the density r dr."""
    y = (x[0] - x[1]) / math.sqrt(2.0)
    r = jnp.sqrt(jnp.sum(y**2) + 1e-12)
    return -jnp.logaddexp(-0.5 * ((r - 0.6) / 0.1) ** 2, -0.5 * ((r - 2.6) / 0.2) ** 2 - 0.5)


def radial_log_z(energy):
    r = np.linspace(1e-4, 8.0, 40_001)
    x = np.zeros((r.size, 2, 2))
    x[:, 0, 0], x[:, 1, 0] = r / math.sqrt(2.0), -r / math.sqrt(2.0)
    u = np.asarray(jax.vmap(energy)(jnp.asarray(x)), np.float64)
    weight = np.exp(-u) * 2.0 * math.pi * r
    return float(np.log(np.trapezoid(weight, r))), float(np.trapezoid(weight * r, r) / np.trapezoid(weight, r))


def make(energy, n=2):
    return targets.from_function(energy, n, 2, name=energy.__name__)


@pytest.fixture(scope="module")
def target():
    return make(gaussian, 3)


@pytest.fixture(scope="module")
def flow(target):
    return normal(target, 0.55, scale=0.7)


# One program for most tests: what it is compiled for is the same in all of them.
ASKED = {"seed": 1, "path": "geometric", "population": 32}
TRUTH = 2.0 * math.log(2.0 * math.pi * WIDTH**2)


def unbiased(log_z, truth):
    """Whether the mean of Z over runs is the truth, within four of its standard errors."""
    ratio = np.exp(np.asarray(log_z) - truth)
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std(ddof=1) / math.sqrt(ratio.size), (ratio.mean(), ratio.std(), ratio.size)
    return ratio


def per_population(samples):
    return [math.log(np.mean(np.exp(samples.log_weight[samples.group == g]))) for g in np.unique(samples.group)]


@pytest.mark.parametrize("path", ["geometric", pytest.param("direct", marks=pytest.mark.slow)])
def test_log_z_of_a_normal_has_no_bias(path, flow, target):
    samples = correct.smc(flow, target, 600 * 32, **{**ASKED, "path": path}, share=0.8)
    ratio = unbiased(per_population(samples), TRUTH)
    # A flow that is off: the weights matter, and a mistake in them would be seen.
    assert 0.02 < ratio.std() < 0.5
    assert samples.log_z().high - samples.log_z().low < 0.05
    # Forty times fifteen populations: the intervals of a few hold the truth as often as they say, within chance (0.95 each).
    held = np.zeros(2)
    for part in range(40):
        few = samples.take(slice(part * 15 * 32, (part + 1) * 15 * 32))
        found, energy = few.log_z(), few.expectation(few.u)
        held += [found.low <= TRUTH <= found.high, energy.low <= 2.0 <= energy.high]
        assert energy.high - energy.low < 0.8
    assert (held >= 35).all(), held


@pytest.mark.slow
def test_both_modes_get_their_share():
    rings = make(two_rings)
    truth, mean_length = radial_log_z(two_rings)
    flow = normal(rings, 1.8)
    samples = correct.smc(flow, rings, 150 * 64, seed=5, path="geometric", population=64)
    assert len(samples.meta["schedule"]["b"]) >= 3
    ratio = unbiased(per_population(samples), truth)
    assert ratio.std() < 0.6
    length = samples.expectation(lambda x: np.linalg.norm(x[:, 0] - x[:, 1], axis=1) / math.sqrt(2.0))
    assert length.low < mean_length < length.high
    assert length.high - length.low < 0.2


@pytest.mark.slow
def test_the_exact_log_z_of_the_double_well():
    target = targets.get("dw4")
    flow = normal(target, 1.6)
    samples = correct.smc(flow, target, 40 * 256, seed=2, path="geometric", leapfrog=6)
    assert weights.reverse_ess(samples.log_weight).value > 0.3
    assert target.exact.log_z is not None
    assert target.exact.mean_energy is not None
    unbiased(per_population(samples), target.exact.log_z)
    found, energy = samples.log_z(), samples.expectation(samples.u)
    assert found.low < target.exact.log_z < found.high
    assert energy.low < target.exact.mean_energy < energy.high
    assert energy.high - energy.low < 0.5


def test_energies_are_counted_and_kept_to(flow, target):
    samples = correct.smc(flow, target, 250, **ASKED)
    stages, pilot = len(samples.meta["schedule"]["b"]), samples.meta["schedule"]["energies"]
    each = 32 * (1 + 4 * stages)
    assert samples.n == 250
    assert samples.meta["gradient_evaluations"] == pilot + 8 * each
    assert samples.meta["density_evaluations"] > samples.meta["gradient_evaluations"]
    few = correct.smc(flow, target, 250, energies=pilot + 3 * each + 5, **ASKED)
    assert few.n == 96
    assert few.meta["gradient_evaluations"] == pilot + 3 * each
    np.testing.assert_array_equal(few.positions, samples.positions[:96])
    assert correct.smc(flow, target, energies=pilot + 2 * each, **ASKED).n == 64
    with pytest.raises(ConfigError, match=f"allow {pilot + each} or more"):
        correct.smc(flow, target, energies=pilot + each - 1, **ASKED)
    with pytest.raises(ConfigError, match="too few: .* or more"):
        correct.smc(flow, target, energies=100, **ASKED)


def test_what_a_kill_leaves_is_continued_to_the_same_bits(flow, target, tmp_path):
    whole = correct.smc(flow, target, 160, **ASKED)
    path = tmp_path / "part.h5"
    correct.smc(flow, target, 70, out=path, **ASKED)
    with pytest.raises(RunError, match="the correction"):
        correct.smc(flow, target, 160, out=path, resume=True, **{**ASKED, "leapfrog": 5})
    found = correct.smc(flow, target, 160, out=path, resume=True, **ASKED)
    for name in ("positions", "log_weight", "u", "group"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert Samples.load(path, target).meta["gradient_evaluations"] == whole.meta["gradient_evaluations"]
    # Corrected samples have no copies left to average over, and are not joined with plain ones.
    plain = dataclasses.replace(found, meta={key: value for key, value in found.meta.items() if key != "correction"})
    with pytest.raises(DataError, match="differ in the correction"):
        Samples.concatenate([found, plain])


@pytest.mark.parametrize("trouble", ["ctrl-c", "full disk"])
def test_trouble_in_the_middle(flow, target, tmp_path, trouble):
    run = functools.partial(correct.smc, flow, target, 160, **ASKED)
    goes_on_after_trouble(run, run(), tmp_path / "s.h5", trouble, ("positions", "log_weight", "u", "group"))


@pytest.mark.slow
def test_an_energy_that_fails_costs_itself_alone():
    def cracked(x):
        """No number in a stripe through the middle of the density."""
        u = gaussian(x)
        return jnp.where(jnp.abs(x[0, 0]) < 0.05, jnp.nan, u)

    target = make_unchecked(cracked, 3)
    samples = correct.smc(normal(target, 0.55, broken=0.1), target, 100 * 32, seed=3, path="geometric", population=32)
    weighty = np.isfinite(samples.log_weight)
    assert weighty.mean() > 0.5
    assert np.isfinite(samples.u[weighty]).all()
    assert (np.abs(samples.positions[weighty, 0, 0]) >= 0.05).all()
    # x_1 is a normal of variance 2/3 · WIDTH², of which the stripe is cut out; a tenth of the draws fails and counts in n.
    spread = WIDTH * math.sqrt(2.0 / 3.0)
    left = 1.0 - math.erf(0.05 / spread / math.sqrt(2.0))
    unbiased(per_population(samples), TRUTH + math.log(0.9 * left))


def make_unchecked(energy, n):
    target = targets.Target(energy.__name__, n, 2, energy, (0,) * n, exact=ExactValues())
    target.mark_checked()
    return target


@pytest.mark.slow
def test_weights_that_collapse_and_a_target_that_is_not_reached(target):
    far = normal(target, 40.0)
    # A hundred times too wide: many temperatures, and still the right answer.
    samples = correct.smc(far, target, 8 * 128, seed=1, path="geometric", population=128)
    assert len(samples.meta["schedule"]["b"]) > 8
    found = samples.log_z()
    assert found.low < TRUTH < found.high

    def nowhere(x):
        return jnp.sum(x**2) + jnp.nan

    with pytest.raises(DataError, match="walkers of the pilot have weight"):
        correct.smc(normal(target, 1.0), make_unchecked(nowhere, 3), 100, seed=1, path="geometric")
    # Directly: a handful of draws carry the weight, and no interval is claimed.
    direct = correct.smc(normal(target, 4.0), target, 4 * 64, seed=1, path="direct", population=64, moves=1)
    assert direct.log_z().kind == "none" or direct.log_z().high - direct.log_z().low > 0.3


def test_bad_settings_are_refused(flow, target):
    for words, options in (
        ("has no energy", None),
        ("between 0 and 1", {"share": 1.0}),
        ("'geometric' or 'direct'", {"path": "straight"}),
        ("needs moves", {"path": "geometric", "moves": 0}),
        ("no copies|augmented flow has copies", {"draws": 3}),
        ("population must be at least 1", {"population": 0}),
        ("at least 1", {"energies": 0}),
        ("from 1 to", {"n": 0}),
    ):
        given = {"n": 10, **(options or {})}
        if options is None:
            with pytest.raises(DataError, match=words):
                correct.smc(flow, targets.Target("none", 3, 2, None, (0, 0, 0)), 10, seed=0)
        else:
            with pytest.raises(ConfigError, match=words):
                correct.smc(flow, target, seed=0, **given)
    with pytest.raises(ConfigError, match="give the number of samples"):
        correct.smc(flow, target, seed=0)
