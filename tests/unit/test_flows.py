"""The continuous flow against closed forms: densities, paths, failures, and the stochastic divergence."""

import itertools
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from boltzflow import targets
from boltzflow.config import ECNF, EGNN, RK4, BruteForce, Dopri5, GaussLegendre, Hutchinson, Solver, Tsit5, TwoInteraction
from boltzflow.flows import STATUS_SENTENCES, ContinuousFlow, FlowSolution, Status, prior
from boltzflow.flows.build import build_flow
from boltzflow.flows.divergence import brute_force, draw_probes, hutchinson, velocity_and_divergence
from boltzflow.nets.base import AbstractSparseVectorField, AbstractVectorField
from boltzflow.sampling.generate import log_density

SPIRAL = np.array([[0.5, 0.8], [-0.8, 0.5]])


class Linear(AbstractVectorField):
    """v = c(t) · x A of the centred positions, with c(t) = 1 + slope·(2t - 1), whose integral is 1."""

    matrix: Any
    slope: float = 0.0

    def __call__(self, t, positions):
        centred = positions - jnp.mean(positions, axis=0, keepdims=True)
        return (1.0 + self.slope * (2.0 * t - 1.0)) * centred @ jnp.asarray(self.matrix, positions.dtype)


class Repulsion(AbstractVectorField):
    """A nonlinear equivariant field: neighbours push each other apart."""

    strength: float = 2.0

    def __call__(self, t, positions):
        difference = positions[:, None] - positions[None]
        squared = jnp.sum(difference**2, axis=-1, keepdims=True)
        return self.strength * jnp.cos(2.0 * t) * jnp.sum(difference * jnp.exp(-squared), axis=1)


class Broken(AbstractVectorField):
    """NaN for configurations beyond a radius, and growing without bound within finite time if told to."""

    radius: Any
    growth: Any

    def __call__(self, t, positions):
        squared, centred = jnp.sum(positions**2), positions - jnp.mean(positions, axis=0, keepdims=True)
        return jnp.where(squared > self.radius**2, jnp.nan, (0.1 + self.growth * squared) * centred)


def basis(n: int) -> np.ndarray:
    """Orthonormal basis (n-1, n) of the vectors of zero sum."""
    return scipy.linalg.helmert(n)


def centred(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return values - values.mean(axis=-2, keepdims=True)


@eqx.filter_jit
def push(flow: ContinuousFlow, latents: Any, keys: Any = None) -> FlowSolution:
    return jax.vmap(lambda z, key: flow.push_forward(z, key=key))(latents, keys)


def flow_of(field: AbstractVectorField, n: int, dimension: int, scale: float = 1.0, solver: Solver = Dopri5()) -> ContinuousFlow:  # noqa: B008
    return ContinuousFlow(field=field, n_particles=n, dimension=dimension, scale=scale, solver=solver)


@eqx.filter_jit
def density(flow: ContinuousFlow, positions: Any, keys: Any = None) -> FlowSolution:
    return jax.vmap(lambda x, key: flow.log_prob(x, key=key))(positions, keys)


@eqx.filter_jit
def sample(flow: ContinuousFlow, keys: Any) -> FlowSolution:
    return jax.vmap(lambda key: flow.sample_and_log_prob(key=key))(keys)


class TestPrior:
    @pytest.mark.parametrize(("n", "dimension"), [(2, 1), (4, 2), (5, 3)])
    def test_log_prob_is_the_normal_density_in_an_orthonormal_basis(self, n, dimension):
        x = centred(np.random.default_rng(0), n, dimension)
        degrees = (n - 1) * dimension
        expected = scipy.stats.multivariate_normal(np.zeros(degrees), cast(Any, np.eye(degrees))).logpdf((basis(n) @ x).ravel())
        with jax.enable_x64(True):
            np.testing.assert_allclose(prior.log_prob(jnp.asarray(x)), expected, rtol=1e-12)

    def test_samples_are_standard_normal_on_the_subspace(self):
        x = np.asarray(jax.vmap(lambda key: prior.sample(4, 2, key=key))(jax.random.split(jax.random.key(0), 20_000)))
        np.testing.assert_allclose(x.mean(axis=1), 0.0, atol=1e-6)
        y = np.einsum("bn,snd->sbd", basis(4), x).reshape(len(x), -1)
        np.testing.assert_allclose(np.cov(y.T), np.eye(6), atol=5 * np.sqrt(2 / len(y)))
        np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=5 / np.sqrt(len(y)))


class TestDivergence:
    @pytest.mark.parametrize(("n", "dimension"), [(4, 2), (18, 3)], ids=["at-once", "in-groups-with-a-rest"])
    def test_brute_force_is_the_trace_on_the_subspace(self, n, dimension):
        with jax.enable_x64(True):
            x, t, field = jnp.asarray(centred(np.random.default_rng(1), n, dimension)), jnp.asarray(0.3), Repulsion()
            b = jnp.asarray(basis(n))
            # The map in coordinates of the subspace: the definition of the divergence there.
            jacobian = jax.jacfwd(lambda y: b @ field(t, b.T @ y))(b @ x)
            velocity, divergence = brute_force(field, t, x)
            np.testing.assert_allclose(divergence, jnp.einsum("iaia->", jacobian), rtol=1e-12)
            np.testing.assert_allclose(velocity, field(t, x), rtol=1e-12)

    def test_hutchinson_is_exact_for_a_complete_set_of_probes_and_unbiased_for_random_ones(self):
        with jax.enable_x64(True):
            x, t, field = jnp.asarray(centred(np.random.default_rng(2), 4, 2)), jnp.asarray(0.3), Repulsion()
            exact = brute_force(field, t, x)[1]
            complete = np.sqrt(6) * np.einsum("bn,ad->band", basis(4), np.eye(2)).reshape(6, 4, 2)
            np.testing.assert_allclose(hutchinson(field, t, x, jnp.asarray(complete))[1], exact, rtol=1e-12)
            probes = draw_probes(20_000, 4, 2, key=jax.random.key(0))
            estimates = jax.vmap(lambda probe: hutchinson(field, t, x, probe[None])[1])(probes)
            assert abs(jnp.mean(estimates) - exact) < 5 * jnp.std(estimates) / np.sqrt(len(estimates))
            np.testing.assert_allclose(hutchinson(field, t, x, probes)[1], jnp.mean(estimates), rtol=1e-9)

    def test_probes_have_zero_mean_and_unit_covariance_on_the_subspace(self):
        probes = np.asarray(draw_probes(20_000, 3, 2, key=jax.random.key(1)))
        np.testing.assert_allclose(probes.mean(axis=1), 0.0, atol=1e-6)
        y = np.einsum("bn,pnd->pbd", basis(3), probes).reshape(len(probes), -1)
        np.testing.assert_allclose(np.cov(y.T), np.eye(4), atol=5 * np.sqrt(2 / len(y)))

    def test_methods(self):
        class Sparse(AbstractSparseVectorField):
            def __call__(self, t, positions):
                return Linear(SPIRAL)(t, positions)

            def velocity_and_divergence(self, t, positions):
                return self(t, positions), jnp.float32(123.0)

        x, t = jnp.asarray(centred(np.random.default_rng(3), 3, 2), jnp.float32), jnp.float32(0.5)

        def of(field: Any, **options: Any) -> float:
            return float(velocity_and_divergence(field, t, x, **options)[1])

        assert of(Sparse(), method="exact") == 123.0
        assert of(Sparse(), method="brute-force") == pytest.approx(2.0)
        assert of(Linear(SPIRAL), method="exact") == pytest.approx(2.0)
        assert of(Sparse(), method="hutchinson", probes=jnp.zeros((1, 3, 2))) == 0.0
        with pytest.raises(ValueError, match="draw_probes"):
            of(Sparse(), method="hutchinson")


def gaussian_log_prob(x: np.ndarray, matrix: np.ndarray, scale: float) -> np.ndarray:
    """Log density at (n, N, D) of the prior moved by z -> scale · z exp(matrix), in the orthonormal basis of the subspace."""
    n, dimension = x.shape[1:]
    move = scale * scipy.linalg.expm(matrix)
    normal = scipy.stats.multivariate_normal(np.zeros(dimension), cast(Any, move.T @ move))
    y = np.einsum("bn,snd->sbd", basis(n), x)
    return normal.logpdf(y).reshape(len(x), n - 1).sum(axis=1)


class TestClosedForms:
    @pytest.mark.parametrize(
        ("method", "grading"), [("dopri5", 1.0), ("tsit5", 1.0), ("rk4", 1.0), ("gauss-legendre", 1.0), ("gauss-legendre", 1.5)]
    )
    def test_linear_field_in_double_precision(self, method, grading):
        scale, latents = 2.5, centred(np.random.default_rng(0), 6, 3, 2)
        fixed = {"rk4": 400, "gauss-legendre": 404}
        adaptive = {"rtol": 1e-9, "atol": 1e-9, "max_steps": 512}
        own = {"rk4": {"steps": 100}, "gauss-legendre": {"nodes": 100, "grading": grading}}
        solver = Solver.named(method)(**own.get(method, adaptive))
        with jax.enable_x64(True):
            flow = flow_of(Linear(SPIRAL, slope=0.5), 3, 2, scale, solver)
            forward = push(flow, jnp.asarray(latents))
            # Moved as a whole: the centre of mass is taken off.
            backward = density(flow, forward.positions + 3.0)
        moved = latents @ scipy.linalg.expm(SPIRAL)
        np.testing.assert_allclose(forward.positions, scale * moved, atol=1e-7)
        expected = gaussian_log_prob(scale * moved, SPIRAL, scale)
        for solution in (forward, backward):
            np.testing.assert_allclose(solution.log_q, expected, atol=1e-7)
            # A spiral: speed |A x| with |x| growing as exp(t/2), in units of the prior.
            length = np.sqrt(0.5**2 + 0.8**2) / 0.5 * (np.exp(0.5) - 1.0) * np.linalg.norm(latents, axis=(1, 2))
            np.testing.assert_allclose(solution.path_length, length, rtol=1e-6)
            np.testing.assert_allclose(solution.distance, np.linalg.norm(moved - latents, axis=(1, 2)), rtol=1e-6)
            assert np.all(solution.status == 0)
            assert np.all(solution.nfe == fixed[method]) if method in fixed else np.all((solution.nfe > 20) & (solution.nfe % 6 == 1))
        np.testing.assert_allclose(backward.positions, latents, atol=1e-7)
        assert {solution.dtype for solution in (forward.positions, forward.log_q, forward.path_length)} == {np.dtype("float64")}

    def test_linear_field_in_single_precision_with_default_tolerances(self):
        flow = flow_of(Linear(SPIRAL, slope=0.5), 3, 2, 0.4)
        solution = sample(flow, jax.random.split(jax.random.key(0), 200))
        assert np.all(solution.status == 0)
        assert {solution.positions.dtype, solution.log_q.dtype} == {np.dtype("float32")}
        np.testing.assert_allclose(solution.log_q, gaussian_log_prob(np.asarray(solution.positions), SPIRAL, 0.4), atol=5e-3)
        # The samples have the covariance that the density says.
        y = np.einsum("bn,snd->sbd", basis(3), solution.positions).reshape(-1, 2)
        np.testing.assert_allclose(np.cov(y.T) / (0.4**2 * np.e), np.eye(2), atol=5 * np.sqrt(2 / len(y)))

    def test_nonlinear_field_in_double_precision(self):
        with jax.enable_x64(True):
            flow = flow_of(Repulsion(), 4, 2, 1.3, Dopri5(rtol=1e-9, atol=1e-9))
            forward = sample(flow, jax.random.split(jax.random.key(1), 5))
            x = np.asarray(forward.positions)
            turned = x[0] @ np.array([[0.6, 0.8], [0.8, -0.6]])
            backward = density(flow, jnp.asarray(np.stack([*x, turned, x[0][[2, 0, 3, 1]], x[0] - 7.0])))
            latents = np.stack([prior.sample(4, 2, key=jax.random.split(key)[0]) for key in jax.random.split(jax.random.key(1), 5)])
        # There and back again.
        assert np.ptp(forward.distance) > 0.1
        np.testing.assert_allclose(backward.positions[:5], latents, atol=1e-6)
        np.testing.assert_allclose(backward.log_q[:5], forward.log_q, atol=1e-6)
        # The speed has a kink where the field turns round, and the path length does not steer the steps.
        np.testing.assert_allclose(backward.path_length[:5], forward.path_length, rtol=5e-3)
        np.testing.assert_allclose(x.mean(axis=1), 0.0, atol=1e-12)
        assert np.all(forward.path_length > forward.distance)
        # The density has the symmetries of the field: turned and mirrored, permuted, moved.
        np.testing.assert_allclose(backward.log_q[5:], backward.log_q[0], atol=1e-6)

    def test_nonlinear_field_in_single_precision(self):
        # Two particles in the plane: the subspace is a plane too, and a grid of it in an orthonormal basis can be summed over.
        axis, step = np.linspace(-6.0, 6.0, 81, retstep=True)
        grid = basis(2).T @ np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
        keys = jax.random.split(jax.random.key(1), 50)
        flow = flow_of(Repulsion(), 2, 2, 0.7)
        forward = sample(flow, keys)
        backward = log_density(flow, np.concatenate([forward.positions, grid]).astype(np.float32), chunk=256)
        assert np.all(backward.status == 0)
        np.testing.assert_allclose(backward.log_q[:50], forward.log_q, atol=5e-3)
        assert np.sum(np.exp(np.asarray(backward.log_q[50:], float))) * step**2 == pytest.approx(1.0, abs=2e-3)
        # The solver with fixed steps agrees with the adaptive one.
        fixed = sample(flow_of(Repulsion(), 2, 2, 0.7, RK4()), keys)
        np.testing.assert_allclose(fixed.positions, forward.positions, atol=2e-3)
        np.testing.assert_allclose(fixed.log_q, forward.log_q, atol=1e-2)
        assert np.all(fixed.nfe == 80)

    # jaxlib 0.10.2 computed some sums over large batches wrongly on CPU (jax-ml/jax issue 39103).
    def test_a_sample_does_not_depend_on_the_size_of_its_batch(self):
        positions = 0.7 * centred(np.random.default_rng(0), 2048, 2, 2).astype(np.float32)
        flow = flow_of(Repulsion(), 2, 2, 0.7, RK4(steps=5))
        whole = density(flow, jnp.asarray(positions))
        parts = log_density(flow, positions, chunk=256)
        np.testing.assert_allclose(whole.positions, parts.positions, atol=1e-5)
        np.testing.assert_allclose(whole.log_q, parts.log_q, atol=1e-4)

    def test_chunks_shrink_as_systems_grow(self):
        sizes = {n: flow_of(Repulsion(), n, 3).chunk_size for n in (2, 4, 13, 55, 500)}
        assert all(a >= b >= 1 for a, b in itertools.pairwise(sizes.values()))
        assert sizes[4] > sizes[13] > sizes[55]
        # What a chunk occupies grows as the square of the number of particles.
        assert max(size * n**2 for n, size in sizes.items() if size > 1) < 2 * min(size * n**2 for n, size in sizes.items() if 2 < n < 55)

    @pytest.mark.parametrize("solver", [RK4, GaussLegendre])
    def test_fixed_steps_converge_at_fourth_order(self, solver):
        def error(steps: int) -> float:
            with jax.enable_x64(True):
                flow = flow_of(Linear(2.0 * SPIRAL, slope=1.0), 3, 2, 1.0, solver(steps))
                x = centred(np.random.default_rng(0), 1, 3, 2)
                return float(np.abs(push(flow, jnp.asarray(x)).positions - x @ scipy.linalg.expm(2.0 * SPIRAL)).max())

        coarse, fine = error(10), error(20)
        assert 12.0 < coarse / fine < 20.0
        assert fine < 1e-3


class TestFailures:
    def test_too_few_steps_are_status_1(self):
        latents = jnp.asarray(centred(np.random.default_rng(0), 3, 3, 2), jnp.float32)
        solution = push(flow_of(Linear(4 * SPIRAL), 3, 2, solver=Dopri5(rtol=1e-6, atol=1e-6, max_steps=3)), latents)
        assert list(solution.status) == [1, 1, 1]
        assert "max_steps" in STATUS_SENTENCES[1]

    @pytest.mark.parametrize("method", ["dopri5", "rk4", "gauss-legendre"])
    def test_a_field_that_is_nan_or_explodes_fails_the_samples_concerned_alone(self, method):
        latents = centred(np.random.default_rng(0), 4, 3, 2)
        latents *= (np.array([0.5, 3.0, 0.5, 3.0]) / np.linalg.norm(latents, axis=(1, 2)))[:, None, None]

        def solved(radius: float, growth: float = 0.0) -> FlowSolution:
            flow = flow_of(Broken(jnp.float32(radius), jnp.float32(growth)), 3, 2, solver=Solver.named(method)())
            return push(flow, jnp.asarray(latents, jnp.float32))

        mixed, whole = solved(1.0), solved(100.0)
        assert list(whole.status) == [0, 0, 0, 0]
        assert list(mixed.status) == [0, 2, 0, 2]
        np.testing.assert_allclose(mixed.log_q[::2], whole.log_q[::2], rtol=1e-6)
        np.testing.assert_allclose(mixed.positions[::2], whole.positions[::2], rtol=1e-6)
        exploded = solved(np.inf, growth=0.5)
        assert exploded.status[0] == 0
        assert exploded.status[1] != 0


class TestHutchinson:
    def test_noise_is_drawn_once_per_solve(self):
        keys = jax.random.split(jax.random.key(3), 2000)
        latent = jnp.asarray(centred(np.random.default_rng(0), 4, 2), jnp.float32)
        latents = jnp.broadcast_to(latent, (len(keys), 4, 2))

        def flow(divergence: Any, steps: int) -> ContinuousFlow:
            return flow_of(Repulsion(), 4, 2, solver=RK4(steps, divergence=divergence))

        stochastic = flow(Hutchinson(), 20)
        few = np.asarray(push(stochastic, latents, keys).log_q)
        np.testing.assert_array_equal(few, push(stochastic, latents, keys).log_q)
        assert np.std(few) > 0.1
        # More steps are more evaluations; noise that was drawn anew at each would give other values, and average out.
        np.testing.assert_allclose(push(flow(Hutchinson(), 40), latents, keys).log_q, few, atol=1e-3)
        exact = push(flow(BruteForce(), 20), latents[:1]).log_q[0]
        assert abs(few.mean() - exact) < 5 * np.std(few) / np.sqrt(len(few))
        # Both directions share the noise of a key.
        end = push(stochastic, latents, keys).positions
        np.testing.assert_allclose(density(stochastic, end, keys).log_q, few, atol=1e-3)
        assert np.abs(density(stochastic, end, keys[::-1]).log_q - few).max() > 1e-2


@pytest.mark.parametrize(
    "network", [EGNN(layers=2, hidden=8, radial=4, cutoff=3.0), TwoInteraction(depth=2, hidden=8, radial=4, cutoff=3.0)]
)
def test_build_flow_follows_the_configuration(network):
    options = ECNF(network, Tsit5())
    flow: Any = eqx.filter_eval_shape(lambda: build_flow(options, targets.get("dw4"), 2.0, key=jax.random.key(0)))
    assert (flow.n_particles, flow.dimension, flow.scale, flow.solver.variant) == (4, 2, 2.0, "tsit5")
    # The cut-off is a length in data units, the field works in units of the prior.
    assert flow.field.cutoff == 1.5
    assert flow.field.types == (0, 0, 0, 0)


class TestStatus:
    def test_every_number_has_its_sentence(self):
        assert dict(STATUS_SENTENCES) == {status: status.sentence for status in Status}
        assert Status(1) is Status.MAX_STEPS
        assert "max_steps" in Status.MAX_STEPS.sentence
        assert len(set(STATUS_SENTENCES.values())) == len(Status)

    def test_columns_of_samples_compare_with_it(self):
        column = np.array([0, 2, 3, 0], np.int8)
        assert list(column == Status.SOLVED) == [True, False, False, True]


class TestWhatAFlowSaysOfItself:
    """Nobody asks of which class a flow is."""

    def test_an_exact_density_is_its_own_draw(self):
        flow = flow_of(Linear(SPIRAL, slope=0.5), 3, 2, 0.4)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))
        draws = flow.log_importance_ratios(x, count=3, key=jax.random.key(0))
        np.testing.assert_array_equal(draws, np.full(3, flow.log_prob(x).log_q))
        assert flow.noisy_draws == 0

    def test_finer_is_nearer_to_the_truth(self):
        start, key = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2))), jax.random.key(0)
        flow = flow_of(Linear(2.0 * SPIRAL, slope=1.0), 3, 2, 1.0, RK4(4))
        exact = flow_of(Linear(2.0 * SPIRAL, slope=1.0), 3, 2, 1.0, RK4(256)).log_prob(start, key=key).log_q
        coarse, finer = (abs(float(one.log_prob(start, key=key).log_q - exact)) for one in (flow, flow.finer()))
        assert finer < 0.2 * coarse
