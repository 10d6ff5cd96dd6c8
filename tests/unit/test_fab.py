"""FAB: annealing towards p²/q against integrals in closed form, the buffer, and a state that goes on after a kill."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from boltzflow import config, targets
from boltzflow.config import EACF, NoProjection
from boltzflow.errors import ConfigError
from boltzflow.flows.build import build_flow
from boltzflow.flows.coupling import CouplingStack
from boltzflow.flows.coupling.layer import Transformed
from boltzflow.objectives import buffer as buffers
from boltzflow.objectives.base import Setting
from boltzflow.objectives.fab import FAB, Weighted
from boltzflow.sampling.correct.moves import Parts, slope, tempered
from boltzflow.sampling.correct.spaces import Space
from boltzflow.training import stages
from boltzflow.training.checkpoint import Checkpoints
from boltzflow.training.sharding import data_mesh

SCALE, SPREAD = 1.3, 1.5
FREEDOM = 4


def harmonic(positions: Any) -> Any:
    """exp(-u) is a normal density of the spread `SPREAD` that is not normalised."""
    return 0.5 * jnp.sum((positions - jnp.mean(positions, axis=0, keepdims=True)) ** 2) / SPREAD**2


def broken(positions: Any) -> Any:
    """As `harmonic`, and not a number for half of the configurations."""
    return jnp.where(positions[0, 0] > positions[1, 0], jnp.nan, harmonic(positions))


TARGET = targets.Target("harmonic", 3, 2, harmonic, (0, 1, 2))
COUPLING = EACF(NoProjection(), blocks=1, layers=1, features=4, noise=0.5)


class Stretch(CouplingStack):
    """Positions and the noise of their copies, each stretched: compiled in no time, with a density in closed form."""

    logs: Any = None

    def __call__(self, channels: Any, *, inverse: bool) -> Transformed:
        x, noise = channels[:, :1], channels[:, 1:] - channels[:, :1]
        sign = -1.0 if inverse else 1.0
        x, noise = x * jnp.exp(sign * self.logs[0]), noise * jnp.exp(sign * self.logs[1])
        log_det = sign * (self.logs[0] * FREEDOM + self.logs[1] * noise.size)
        return Transformed(jnp.concatenate([x, x + noise], axis=1), log_det, jnp.zeros(()))


def flow_of(*, moved: float = 0.0, double: bool = False) -> Any:
    """The identity, or a flow that does something."""
    flow: Any = build_flow(COUPLING, TARGET, SCALE, key=jax.random.key(0))
    logs = moved * jnp.asarray([1.0, -0.7], jnp.float64 if double else jnp.float32)
    return flow.with_network(Stretch(jax.tree.map(lambda a: a[:1] if eqx.is_array(a) else a, flow.stack.layers), None, logs))


def bound(flow: Any, *, target: Any = TARGET, batch_size: int = 8, **options: Any) -> FAB:
    options = {"temperatures": 2, "leapfrog": 2, "updates": 2, "capacity": 4, "least": 3, "step_size": 0.3} | options
    return FAB(**options).bound(Setting(flow, target, batch_size))


# --- the densities on the way


def test_between_flow_and_its_square_the_slope_is_the_gradient():
    def parts(x: Any) -> Parts:
        log_p, log_q = (lambda x: -jnp.sum(x**4)), (lambda x: -0.5 * jnp.sum(x**2 * jnp.arange(1.0, 4.0)))
        return Parts(log_p(x), log_q(x), jax.grad(log_p)(x), jax.grad(log_q)(x))

    x = jnp.asarray([0.3, -0.8, 0.5])
    for b in (0.0, 0.4, 1.0, 1.7, 2.0):
        at = jnp.asarray(b)
        np.testing.assert_allclose(tempered(parts(x), at), b * parts(x).log_p + (1 - b) * parts(x).log_q, rtol=1e-6)
        np.testing.assert_allclose(slope(parts(x), at), jax.grad(lambda x, at=at: tempered(parts(x), at))(x), rtol=1e-5)


def test_where_the_flow_has_no_density_nothing_goes_beyond_the_target():
    nowhere = Parts(jnp.asarray(-1.0), jnp.asarray(-jnp.inf), jnp.zeros(2), jnp.zeros(2))
    assert tempered(nowhere, jnp.asarray(1.5)) == -jnp.inf
    # At the target itself the flow's density does not matter, and need not be known.
    assert tempered(nowhere._replace(log_q=jnp.asarray(jnp.nan)), jnp.asarray(1.0)) == -1.0


def test_annealing_from_the_identity_gives_the_integral_and_the_moments_in_closed_form():
    n = 4000
    with jax.enable_x64(True):
        flow = flow_of(double=True)
        objective = bound(flow, batch_size=n, temperatures=3, leapfrog=3)
        space = Space(flow, TARGET, geometric=True)
        steps = jnp.full(3, 0.4)
        cloud, acceptance = jax.jit(lambda key: objective.annealed(space, steps, key=key))(jax.random.key(2))
        assert 0.5 < float(jnp.min(acceptance))
        assert float(jnp.max(acceptance)) < 1.0
        weights = np.exp(np.asarray(cloud.log_weight))
        squares = np.asarray(cloud.walkers.coordinates[:, :FREEDOM] ** 2) * SCALE**2
        copies = np.asarray(cloud.walkers.coordinates[:, FREEDOM:] ** 2)
    # The copies have the same density in flow and target. Of p²/q for each coordinate: the integral, and the variance.
    precision = 2.0 / SPREAD**2 - 1.0 / SCALE**2
    integral = SCALE * math.sqrt(2.0 * math.pi) * math.sqrt(2.0 * math.pi / precision)
    assert weights.mean() == pytest.approx(integral**FREEDOM, abs=4.0 * weights.std() / math.sqrt(n))
    for found, expected in ((squares.mean(axis=1), 1.0 / precision), (copies.mean(axis=1), 1.0)):
        mean = np.sum(weights * found) / weights.sum()
        error = np.sqrt(np.sum((weights * (found - mean)) ** 2)) / weights.sum()
        assert error < 0.05 * expected
        assert mean == pytest.approx(expected, abs=4.0 * error)


# --- the buffer


def items(number: float, *, log_weight: Any = (0.0, 0.0)) -> buffers.Items:
    return buffers.Items(jnp.full((2, 3), number), jnp.asarray(log_weight), jnp.full(2, 10.0 * number), jnp.zeros((2, 0)))


def test_the_oldest_pass_is_overwritten():
    kept = buffers.empty(6, 3, jnp.dtype("float32"))
    seen = []
    for number in range(5):
        kept = buffers.written(kept, items(float(number)))
        seen.append((int(buffers.filled(kept, 2)), np.asarray(kept.items.coordinates[:, 0]).tolist()))
    assert seen[0] == (2, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.isneginf(np.asarray(buffers.written(buffers.empty(6, 3, jnp.dtype("float32")), items(1.0)).items.log_weight[2:])).all()
    assert seen[2] == (6, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    assert seen[4] == (6, [3.0, 3.0, 4.0, 4.0, 2.0, 2.0])
    np.testing.assert_array_equal(kept.items.log_q, [30.0, 30.0, 40.0, 40.0, 20.0, 20.0])


def test_draws_follow_the_weights_without_replacement():
    weights = np.array([0.5, 0.1, 0.0, 0.25, 0.15])
    draw = jax.jit(jax.vmap(lambda key: buffers.drawn(jnp.log(jnp.asarray(weights, jnp.float32)) + 7.0, 2, key=key)))
    places = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    assert (places[:, 0] != places[:, 1]).all()
    assert not (places == 2).any()
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5) if 2 not in (i, j)]
    expected = np.array([weights[i] * weights[j] * (1 / (1 - weights[i]) + 1 / (1 - weights[j])) for i, j in pairs])
    found = np.array([np.sum((places.min(axis=1) == i) & (places.max(axis=1) == j)) for i, j in pairs])
    assert stats.chisquare(found, expected * len(places)).pvalue > 1e-4
    # In random order: steps shall not get the heaviest first.
    first = np.sum(places[:, 0] < places[:, 1])
    assert stats.binomtest(int(first), len(places)).pvalue > 1e-4


def test_what_has_no_weight_comes_last():
    log_weight = jnp.asarray([-jnp.inf, 3.0, -jnp.inf, -500.0, -jnp.inf])
    for seed in range(20):
        assert set(np.asarray(buffers.drawn(log_weight, 2, key=jax.random.key(seed))).tolist()) == {1, 3}
        assert len(set(np.asarray(buffers.drawn(log_weight, 4, key=jax.random.key(seed))).tolist())) == 4


def test_weights_are_cut_at_a_multiple_of_their_mean():
    log_weight = jnp.log(jnp.asarray([1.0, 2.0, 3.0, 994.0, 0.0, 0.0]))
    cut, count = buffers.truncated(log_weight, jnp.asarray(4))
    # The mean of the four that were written is 250, and the bound twice that.
    np.testing.assert_allclose(np.exp(cut), [1.0, 2.0, 3.0, 500.0, 0.0, 0.0], rtol=1e-5)
    assert int(count) == 1
    assert int(buffers.truncated(jnp.full(3, -jnp.inf), jnp.asarray(3))[1]) == 0
    assert int(buffers.truncated(jnp.zeros(9), jnp.asarray(9))[1]) == 0


def test_weights_are_corrected_where_the_flow_has_changed():
    kept = buffers.written(buffers.empty(4, 3, jnp.dtype("float32")), items(0.2, log_weight=(1.0, -jnp.inf)))
    kept = buffers.written(kept, items(0.3, log_weight=(-2.0, 4.0)))
    after, change = buffers.corrected(kept, jnp.asarray([3, 1, 0]), jnp.asarray([jnp.nan, 5.0, 0.5]))
    # The density has fallen from 2.0 to 0.5, so that p²/q is larger.
    np.testing.assert_allclose(change, [np.nan, np.nan, 1.5])
    np.testing.assert_allclose(after.items.log_weight, [2.5, -np.inf, -2.0, -np.inf])
    np.testing.assert_allclose(after.items.log_q, [0.5, 2.0, 3.0, 3.0])
    np.testing.assert_array_equal(after.items.coordinates, kept.items.coordinates)


# --- steps


def proposer(objective: FAB, network: Any) -> Any:
    return jax.jit(lambda state, key, step: objective.propose(state, network, None, step=step, key=key))


def steps_of(objective: FAB, network: Any, count: int, propose: Any = None) -> tuple[list[Any], list[Any]]:
    """States before each step and after the last, and proposals."""
    propose = propose or proposer(objective, network)
    states, proposals = [objective.init(key=jax.random.key(0))], []
    for step in range(count):
        proposals.append(propose(states[-1], jax.random.fold_in(jax.random.key(3), step), step + 100))
        states.append(proposals[-1].state)
    return states, proposals


@pytest.fixture(scope="module")
def done():
    flow = flow_of(moved=0.1)
    objective = bound(flow)
    propose = proposer(objective, flow.network)
    return objective, flow, *steps_of(objective, flow.network, 5, propose), propose


def test_passes_come_when_they_are_due_and_are_counted(done):
    objective, _, states, proposals, _ = done
    assert [int(state.buffer.passes) for state in states] == [0, 3, 3, 4, 4, 5]
    each = 8 * (1 + objective.temperatures * objective.leapfrog)
    assert [int(p.evaluations.gradients) for p in proposals] == [3 * each, 0, each, 0, each]
    assert [float(p.figures["filled"]) for p in proposals] == [0.75, 0.75, 1.0, 1.0, 1.0]
    for name, value in proposals[-1].figures.items():
        assert np.isfinite(float(value)), name


def test_steps_between_two_passes_share_one_draw(done):
    _, _, states, proposals, _ = done
    first, second = (states[number].chosen for number in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert len(set(np.asarray(first).tolist())) == 16
    for number, part in ((0, slice(0, 8)), (1, slice(8, 16))):
        np.testing.assert_array_equal(proposals[number].batch.coordinates, states[1].buffer.items.coordinates[first[part]])


def test_step_sizes_follow_the_acceptance(done):
    _, _, states, proposals, _ = done
    before, after = states[2].step_sizes, states[3].step_sizes
    ratio = np.asarray(after / before)
    assert np.all(np.isclose(ratio, 1.02) | np.isclose(ratio, 1 / 1.02))
    assert np.allclose(states[1].step_sizes, states[2].step_sizes)
    assert 0.0 < float(proposals[0].figures["acceptance"]) <= 1.0


def test_weights_are_those_of_the_present_flow(done):
    objective, flow, states, _, _ = done
    other = flow_of(moved=0.2)
    state = states[3]
    proposal = jax.jit(lambda state: objective.propose(state, other.network, None, step=9, key=jax.random.key(5)))(state)
    own = np.asarray(state.chosen[8:])
    old, new = state.buffer.items, proposal.state.buffer.items
    log_q = jax.vmap(Space(other, TARGET, geometric=True).log_q)(old.coordinates[own])
    np.testing.assert_allclose(new.log_q[own], log_q, atol=1e-4)
    np.testing.assert_allclose(new.log_weight[own], old.log_weight[own] + old.log_q[own] - log_q, atol=1e-3)
    expected = np.minimum(np.exp(np.asarray(old.log_q[own] - log_q)), objective.clip_ratio)
    assert expected.std() > 0.01
    np.testing.assert_allclose(proposal.batch.ratio, expected, rtol=1e-3)
    rest = np.setdiff1d(np.arange(32), own)
    np.testing.assert_array_equal(new.log_weight[rest], old.log_weight[rest])


def test_the_gradient_is_that_of_the_weighted_density(done):
    objective, flow, _, proposals, _ = done
    batch = proposals[2].batch
    batch = batch._replace(ratio=batch.ratio * jnp.arange(1.0, 9.0))

    def expected(stack: Any) -> Any:
        space = Space(flow.with_network(stack), TARGET, geometric=True)
        return -jnp.sum(batch.ratio * jax.vmap(space.log_q)(batch.coordinates))

    mine = eqx.filter_jit(eqx.filter_grad(lambda stack: jnp.sum(objective.losses(stack, batch))))(flow.stack)
    true = eqx.filter_jit(eqx.filter_grad(expected))(flow.stack)
    np.testing.assert_allclose(mine.logs, true.logs, rtol=1e-3)
    assert float(jnp.abs(true.logs).min()) > 0.1


class TestPathGradients:
    """Of the flow that stretches, whose gradients are quadratic in the coordinates: few points have the mean over p²/q exactly."""

    @staticmethod
    def points(flow: Any) -> tuple[Any, Any]:
        """Points with the second moments of p²/q, and the score of the target there."""
        widths = np.exp(-np.asarray(flow.stack.logs, np.float64))
        # Of each coordinate in units of the prior: the precisions of target and flow.
        size = 3 * 2
        target = np.concatenate([np.full(FREEDOM, (SCALE / SPREAD) ** 2), np.ones(size)])
        own = np.concatenate([np.full(FREEDOM, widths[0] ** -2), np.full(size, widths[1] ** -2)])
        each = np.diag(np.sqrt(len(target) / (2.0 * target - own)))
        coordinates = np.concatenate([each, -each])
        return jnp.asarray(coordinates, jnp.float32), jnp.asarray(-target * coordinates, jnp.float32)

    @staticmethod
    def gradient(flow: Any, estimator: str, coordinates: Any, score: Any) -> Any:
        objective = bound(flow, estimator=estimator)
        batch = Weighted(coordinates, jnp.full(len(coordinates), 1.0), score if estimator == "path-gradient" else score[:, :0])
        return eqx.filter_jit(eqx.filter_grad(lambda stack: jnp.mean(objective.losses(stack, batch))))(flow.stack).logs

    def test_half_of_the_gradient_of_the_likelihood_in_the_mean(self):
        flow = flow_of(moved=0.15)
        coordinates, score = self.points(flow)
        path, likelihood = (self.gradient(flow, name, coordinates, score) for name in ("path-gradient", "likelihood"))
        np.testing.assert_allclose(path, 0.5 * likelihood, rtol=1e-3)
        assert float(jnp.abs(path).min()) > 0.05

    def test_nothing_pulls_where_the_flow_is_exact(self):
        flow = flow_of()
        flow = flow.with_network(eqx.tree_at(lambda stack: stack.logs, flow.stack, jnp.asarray([math.log(SCALE / SPREAD), 0.0])))
        coordinates, score = self.points(flow)
        for point in (0, 3, 7):
            own = (coordinates[point : point + 1], score[point : point + 1])
            path, likelihood = (self.gradient(flow, name, *own) for name in ("path-gradient", "likelihood"))
            np.testing.assert_allclose(path, 0.0, atol=1e-4)
            assert float(jnp.abs(likelihood).max()) > 1.0

    def test_forces_come_from_the_passes(self, done):
        flow = done[1]
        objective = bound(flow, estimator="path-gradient")
        (_, after), (proposal,) = steps_of(objective, flow.network, 1)
        assert int(proposal.evaluations.gradients) == int(done[3][0].evaluations.gradients)
        space = Space(flow, TARGET, geometric=True)
        expected = jax.vmap(lambda x: space.parts(x).grad_p)(proposal.batch.coordinates)
        np.testing.assert_allclose(proposal.batch.score, expected, atol=1e-5)
        assert after.buffer.items.score.shape == after.buffer.items.coordinates.shape

    def test_a_bound_of_pulls_is_theirs_alone(self):
        assert "would have no effect" in next(iter(dataclasses.replace(config.FAB(), clip=3.0).problems()))[1]


def test_energies_that_are_no_numbers_cost_themselves_alone():
    target = targets.Target("broken", 3, 2, broken, (0, 1, 2))
    flow = flow_of()
    # What is drawn, 8 of 32, is less than what has weight.
    objective = bound(flow, target=target, updates=1, least=4)
    states, proposals = steps_of(objective, flow.network, 2)
    kept = states[1].buffer.items
    dead = np.isneginf(np.asarray(kept.log_weight))
    assert 4 < dead.sum() < 28
    assert np.isfinite(np.asarray(kept.log_weight)[~dead]).all()
    assert not dead[np.asarray(states[1].chosen)].any()
    x = jax.vmap(Space(flow, target, geometric=True).positions)(kept.coordinates)
    assert np.isfinite(np.asarray(jax.vmap(broken)(x)))[~dead].all()
    assert np.isfinite(np.asarray(objective.losses(flow.network, proposals[0].batch))).all()
    assert 0.0 < float(proposals[1].figures["non_finite"]) < 1.0


def test_a_buffer_without_any_weight_leaves_everything_out():
    target = targets.Target("nowhere", 3, 2, lambda x: jnp.sum(x) * jnp.nan, (0, 1, 2))
    flow = flow_of()
    _, (proposal,) = steps_of(bound(flow, target=target, updates=1), flow.network, 1)
    assert np.isnan(np.asarray(proposal.batch.ratio)).all()
    assert float(proposal.figures["non_finite"]) == 1.0
    assert float(proposal.figures["buffer_ess"]) == 0.0


def test_what_is_kept_goes_on_bit_identically_from_a_checkpoint(done, tmp_path):
    _, _, states, _, propose = done
    # Nobody asks for scores, and their place is without elements, which must not keep a checkpoint from being written.
    assert not states[2].buffer.items.score.size
    checkpoints = Checkpoints(tmp_path, keep=1, identity="this run")
    checkpoints.save(2, states[2], {})
    found = checkpoints.restore(lambda _: jax.tree.map(jnp.zeros_like, states[2]), print)
    checkpoints.close()
    assert found is not None
    restored = found[0]
    for step in (2, 3, 4):
        restored = propose(restored, jax.random.fold_in(jax.random.key(3), step), step + 100).state
    for whole, resumed in zip(jax.tree.leaves(states[5]), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(whole, resumed)


@pytest.mark.slow
def test_a_stage_goes_on_bit_identically():
    flow, objective = flow_of(moved=0.1), bound(flow_of(moved=0.1))
    stage = config.Stage(config.FAB(), config.Adam(warmup_steps=0), steps=5, batch_size=8, microbatch=8)
    mesh = data_mesh(1, 8, 8, section="stages.0")
    part = stages.Part(0, stage, objective, 5, 1, 1)
    frames = np.zeros((0, 3, 2), np.float32)
    state, saved = stages.begun(part, flow.network, None, mesh), []
    for after, _, _ in part.steps(state, flow.network, frames, mesh, print):
        saved.append(jax.tree.map(np.array, after))
    from_there = jax.tree.map(jnp.asarray, saved[2])
    *_, (again, _, _) = part.steps(from_there, flow.network, frames, mesh, print)
    for whole, resumed in zip(jax.tree.leaves(saved[4]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(whole, np.asarray(resumed))
    assert int(again.objective.buffer.passes) == 5
    assert int(again.objective.done) == 5


# --- what is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"least": 9, "capacity": 8}, "must be at most the 8 passes"), ({"updates": 5, "least": 4}, "must be at most the 4 passes")],
)
def test_sizes_that_do_not_fit_are_refused(options, sentence):
    problems = list(dataclasses.replace(config.FAB(), **options).problems())
    assert len(problems) == 1
    assert sentence in problems[0][1]


def test_a_penalty_without_effect_is_refused():
    with pytest.raises(ConfigError, match="collinearity=3.0 would have no effect"):
        bound(flow_of(), collinearity=3.0)


def test_a_target_without_energy_is_refused():
    with pytest.raises(ConfigError, match="needs an energy"):
        bound(flow_of(), target=targets.Target("frames", 3, 2, None, (0, 1, 2)))
