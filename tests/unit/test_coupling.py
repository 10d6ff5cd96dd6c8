"""Every bijection of the augmented coupling flow: inverse, log-det, symmetries, the identity at the start, finite gradients."""

import dataclasses
import functools
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from boltzflow.errors import TargetError
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.coupling import Cartesian, CouplingLayer, CouplingStack, PlainCoupling, Scaling, Spherical, Vector
from boltzflow.flows.coupling.layer import Transformed
from boltzflow.flows.prior import Harmonic, Normal
from boltzflow.nets.stacking import stacked

TYPES = (0, 0, 1, 0)
N = len(TYPES)
KINDS = {
    "cartesian-affine": lambda d: Cartesian(d),
    "cartesian-spline": lambda d: Cartesian(d, bins=8),
    "spherical": lambda d: Spherical(d),
    "spherical-mirror": lambda d: Spherical(d, reflections=True),
    "vector": lambda d: Vector(d),
}
# Equivariance under reflections holds for these; in the plane, too, the frame is right-handed otherwise.
MIRROR = {"spherical-mirror", "vector", "scaling"}
# "scaling" is blocks in vectors with scaling between them, "plain" is the baseline that knows no rotations.
NAMES = (*KINDS, "scaling", "plain")
# Every kind with three copies in space, and three kinds with one in the plane; the others are the same code with other numbers.
QUICK = {(name, 3, 3) for name in NAMES} | {(name, 2, 1) for name in ("cartesian-affine", "spherical", "vector")}
CASES = [
    pytest.param(case, id=f"{case[0]}-{case[1]}d-k{case[2]}", marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(NAMES, (2, 3), (1, 3))
]


def filled(tree: Any, size: float = 0.5) -> Any:
    """The same module with random parameters everywhere, those that start at zero too."""
    rng = np.random.default_rng(0)

    def draw(a: Any) -> Any:
        if not eqx.is_inexact_array(a):
            return a
        return jnp.asarray(rng.normal(size=a.shape) * size / np.sqrt(a.shape[-2] if a.ndim > 1 else 4.0), a.dtype)

    return jax.tree.map(draw, tree)


def stack(kind: str, dimension: int, augmented: int, *, depth: int = 2) -> CouplingStack:
    """A stack of the kind."""
    options: dict[str, Any] = {"pairs": (augmented + 1) // 2, "layers": 2, "features": 8}

    def layer(key: Any) -> CouplingLayer | PlainCoupling:
        if kind == "plain":
            return PlainCoupling(TYPES, dimension, key=key, **options)
        # Radial functions are for every kind alike; one has them here.
        radial = 4 if kind == "vector" else 0
        return CouplingLayer(TYPES, KINDS["vector" if kind == "scaling" else kind](dimension), width=8, radial=radial, key=key, **options)

    key_layers, key_scalings = jax.random.split(jax.random.key(0))
    scalings = None
    if kind == "scaling":
        scalings = stacked(lambda key: Scaling(augmented + 1, key=key), depth, key=key_scalings)
    return CouplingStack(stacked(layer, 2 * depth, key=key_layers), scalings)


def configuration(dimension: int, augmented: int, seed: int = 0) -> np.ndarray:
    """Channels whose first has zero mean, the others near it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 1, dimension))
    x -= x.mean(axis=0)
    return np.concatenate([x, x + 0.3 * rng.normal(size=(N, augmented, dimension))], axis=1)


@dataclasses.dataclass
class Case:
    """A kind with random parameters; each program is compiled once for all tests of the case."""

    kind: str
    dimension: int
    augmented: int
    network: CouplingStack
    channels: np.ndarray

    def forward(self, channels: Any) -> Transformed:
        return apply(self.network, jnp.asarray(channels), inverse=False)

    def backward(self, channels: Any) -> Transformed:
        return apply(self.network, jnp.asarray(channels), inverse=True)


# Compiling without optimisation takes a third less time.
FAST = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnames=("static", "inverse"), compiler_options=FAST)
def _apply(arrays: Any, channels: Any, *, static: Any, inverse: bool) -> Transformed:
    return eqx.combine(arrays, static)(channels, inverse=inverse)


def apply(network: CouplingStack, channels: Any, *, inverse: bool) -> Transformed:
    arrays, static = eqx.partition(network, eqx.is_array)
    return _apply(arrays, channels, static=static, inverse=inverse)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    kind, dimension, augmented = request.param
    with jax.enable_x64(True):
        return Case(kind, dimension, augmented, filled(stack(kind, dimension, augmented)), configuration(dimension, augmented))


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
class TestBijection:
    def test_the_inverse_undoes(self, case):
        moved = case.forward(case.channels)
        back = case.backward(moved.channels)
        assert np.abs(np.asarray(moved.channels) - case.channels).max() > 1e-2
        np.testing.assert_allclose(back.channels, case.channels, atol=1e-10)
        np.testing.assert_allclose(back.log_det, -moved.log_det, atol=1e-9)
        np.testing.assert_allclose(np.mean(moved.channels[:, 0], axis=0), 0.0, atol=1e-12)

    def test_log_det_is_that_of_the_jacobian_on_the_hyperplane(self, case):
        helmert = scipy.linalg.helmert(N)
        shape = (N, case.augmented, case.dimension)

        def coordinates(channels):
            return jnp.concatenate([(helmert @ channels[:, 0]).ravel(), channels[:, 1:].ravel()])

        def channels(y):
            split = (N - 1) * case.dimension
            return jnp.concatenate([(helmert.T @ y[:split].reshape(N - 1, -1))[:, None], y[split:].reshape(shape)], axis=1)

        start = coordinates(case.channels)
        jacobian = jax.jit(jax.jacfwd(lambda y: coordinates(case.network(channels(y), inverse=False).channels)), compiler_options=FAST)(
            start
        )
        log_det = case.forward(case.channels).log_det
        assert abs(float(log_det)) > 1e-2
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)

    @pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
    def test_rotations_and_reflections(self, case, determinant):
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(case.dimension,) * 2))[0]
        turn[:, 0] *= determinant * np.sign(np.linalg.det(turn))
        moved, turned = case.forward(case.channels), case.forward(case.channels @ turn)
        difference = np.abs(np.asarray(moved.channels) @ turn - turned.channels).max()
        if case.kind in MIRROR or (determinant == 1 and case.kind != "plain"):
            assert difference < 1e-10
            np.testing.assert_allclose(turned.log_det, moved.log_det, atol=1e-10)
        else:
            # Where it should not hold it must not, else a chiral molecule could not be told from its mirror image. The baseline knows
            # no rotations either.
            assert difference > 1e-4

    def test_permutations_of_one_type(self, case):
        order = [3, 0, 2, 1]
        moved, permuted = case.forward(case.channels), case.forward(case.channels[order])
        np.testing.assert_allclose(permuted.channels, np.asarray(moved.channels)[order], atol=1e-10)
        np.testing.assert_allclose(permuted.log_det, moved.log_det, atol=1e-10)
        # Particles of different types are told apart.
        order = [2, 1, 0, 3]
        other = case.forward(case.channels[order])
        assert np.abs(np.asarray(other.channels) - np.asarray(moved.channels)[order]).max() > 1e-5

    def test_translations_are_taken_out(self, case):
        moved, far = case.forward(case.channels), case.forward(case.channels + np.arange(1.0, case.dimension + 1))
        np.testing.assert_allclose(far.channels, moved.channels, atol=1e-10)
        np.testing.assert_allclose(far.log_det, moved.log_det, atol=1e-9)

    def test_identity_at_the_start(self, case):
        network = stack(case.kind, case.dimension, case.augmented)
        moved = apply(network, jnp.asarray(case.channels), inverse=False)
        np.testing.assert_allclose(moved.channels, case.channels, atol=1e-9)
        np.testing.assert_allclose(moved.log_det, 0.0, atol=1e-9)


def degenerate(dimension: int, augmented: int) -> dict[str, np.ndarray]:
    """Configurations in which frames, distances or angles degenerate."""
    line = np.zeros((N, augmented + 1, dimension))
    line[..., 0] = np.linspace(-1.5, 1.5, N)[:, None]
    coincident = configuration(dimension, augmented)
    coincident[1] = coincident[0]
    return {"collinear": line, "coincident": coincident - coincident[:, :1].mean(axis=0), "all at one point": np.zeros_like(line)}


@pytest.mark.parametrize(
    ("kind", "dimension"),
    [
        pytest.param(kind, d, marks=[] if d == 3 and kind in {"spherical", "vector"} else [pytest.mark.slow])
        for kind, d in itertools.product(NAMES, (2, 3))
    ],
)
def test_finite_gradients_where_particles_or_vectors_meet(kind, dimension):
    network = filled(stack(kind, dimension, 1, depth=1))
    parameters, static = eqx.partition(network, eqx.is_inexact_array)

    def loss(parameters: Any, channels: Any) -> Any:
        ways = [eqx.combine(parameters, static)(channels, inverse=inverse) for inverse in (False, True)]
        return sum(jnp.sum(moved.channels**2) + moved.log_det + moved.collinearity for moved in ways)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=FAST)
    for name, channels in degenerate(dimension, 1).items():
        value, gradients = both(parameters, jnp.asarray(channels, jnp.float32))
        assert np.isfinite(value), name
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients)), name


def test_the_penalty_against_degenerate_frames_is_a_mean_over_layers():
    # At the start the layers are the identity: the same ones twice see the same channels.
    once = stack("spherical", 3, 1, depth=1)
    twice = eqx.tree_at(lambda found: found.layers, once, jax.tree.map(lambda a: jnp.concatenate([a, a]), once.layers))
    channels = jnp.asarray(configuration(3, 1), jnp.float32)
    penalties = [float(network(channels, inverse=False).collinearity) for network in (once, twice)]
    assert penalties[0] > 0.1
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-5)


def flow_of(layers: CouplingStack, n: int, dimension: int, copies: int, *, noise: float, scale: float = 1.0) -> AugmentedCouplingFlow:
    return AugmentedCouplingFlow(
        stack=layers, prior=Normal(), n_particles=n, dimension=dimension, augmented=copies, noise=noise, scale=scale
    )


@pytest.mark.usefixtures("double")
class TestAugmentedCouplingFlow:
    @pytest.fixture(scope="class")
    @staticmethod
    def flow():
        with jax.enable_x64(True):
            return flow_of(filled(stack("spherical", 3, 1)), N, 3, 1, noise=0.4, scale=0.7)

    def test_samples_have_the_density_that_joint_says(self, flow):
        keys = jax.random.split(jax.random.key(0), 20)
        channels, log_q = jax.vmap(lambda key: flow.sample_joint(key=key))(keys)
        np.testing.assert_allclose(jax.vmap(flow.joint)(channels).log_q, log_q, atol=1e-8)

    def test_the_identity_has_the_density_of_the_prior(self):
        flow = flow_of(stack("vector", 3, 3), N, 3, 3, noise=0.4, scale=0.7)
        x = configuration(3, 1)[:, 0] * 0.7
        # q(x, a) = q(x) pi(a | x), so that every draw of a gives q(x) itself: a normal in (N-1)·3 dimensions.
        log_q = flow.log_importance_ratios(jnp.asarray(x + 5.0), count=7, key=jax.random.key(0))
        expected = -0.5 * np.sum((x / 0.7) ** 2) - 9 * (0.5 * np.log(2 * np.pi) + np.log(0.7))
        np.testing.assert_allclose(log_q, expected, atol=1e-9)

    def test_log_prob_averages_draws_and_samples_carry_the_joint(self, flow):
        x = jnp.asarray(configuration(3, 1)[:, 0] * 0.7)
        key = jax.random.key(5)
        draws = flow.log_importance_ratios(x, count=flow.marginal_draws, key=key)
        solution = flow.log_prob(x + 3.0, key=key)
        np.testing.assert_allclose(solution.log_q, np.log(np.mean(np.exp(draws))), atol=1e-9)
        assert (int(solution.status), int(solution.nfe)) == (0, flow.marginal_draws)
        channels, log_q = flow.sample_joint(key=key)
        sample = flow.sample_and_log_prob(key=key)
        np.testing.assert_allclose(sample.positions, channels[:, 0] * 0.7, atol=1e-12)
        np.testing.assert_allclose(sample.log_q, log_q - flow.log_conditional(channels) - 9 * np.log(0.7), atol=1e-9)

    def test_joint_density_does_not_change_with_the_place(self, flow):
        channels = configuration(3, 1)
        here, there = flow.joint(jnp.asarray(channels)), flow.joint(jnp.asarray(channels + np.array([1.0, -2.0, 3.0])))
        np.testing.assert_allclose(there.log_q, here.log_q, atol=1e-9)

    def test_conditional_is_a_normal_around_the_positions(self, flow):
        channels = flow.draw_copies(jnp.asarray(configuration(3, 1)[:, 0]), key=jax.random.key(1))
        deviation = np.asarray(channels[:, 1] - channels[:, 0])
        expected = np.sum(-0.5 * (deviation / 0.4) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(0.4))
        np.testing.assert_allclose(flow.log_conditional(channels), expected, rtol=1e-12)

    def test_marginal_is_the_integral_of_the_joint(self):
        # Two particles on a line of one dimension would be simplest; in the plane the copies are integrated over by quadrature.
        projection = Vector(2)
        options: dict[str, Any] = {"pairs": 1, "layers": 1, "features": 8, "width": 8}

        layers = stacked(lambda key: CouplingLayer((0, 0), projection, key=key, **options), 2, key=jax.random.key(0))
        network = filled(CouplingStack(layers), 0.1)
        flow = flow_of(network, 2, 2, 1, noise=0.3)
        x = np.array([[0.4, 0.2], [-0.4, -0.2]])
        nodes, weights = np.polynomial.hermite_e.hermegauss(16)
        grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
        mass = np.prod(np.stack(np.meshgrid(*[weights] * 4, indexing="ij"), axis=-1).reshape(-1, 4), axis=1) / (2 * np.pi) ** 2

        def ratio(noise: Any) -> Any:
            channels = jnp.stack([jnp.asarray(x), x + 0.3 * noise], axis=1)
            return flow.joint(channels).log_q - flow.log_conditional(channels)

        exact = np.log(np.sum(mass * np.exp(jax.lax.map(ratio, jnp.asarray(grid), batch_size=4096))))
        draws = np.exp(np.asarray(flow.log_importance_ratios(jnp.asarray(x), count=20_000, key=jax.random.key(2))))
        assert np.std(draws) > 1e-3 * np.mean(draws)
        assert abs(np.mean(draws) - np.exp(exact)) < 5 * np.std(draws) / np.sqrt(len(draws))


@pytest.mark.usefixtures("double")
class TestHarmonicPrior:
    BONDS = ((0, 1), (1, 2), (1, 3))

    def test_density_is_normalised(self):
        prior = Harmonic(self.BONDS, N, 2.5)
        x = configuration(3, 1)[:, 0]
        helmert = scipy.linalg.helmert(N)
        laplacian = np.array([[1, -1, 0, 0], [-1, 3, -1, -1], [0, -1, 1, 0], [0, -1, 0, 1]]) * 2.5
        covariance = np.kron(np.linalg.inv(helmert @ laplacian @ helmert.T), np.eye(3))
        expected = scipy.stats.multivariate_normal(cov=covariance).logpdf((helmert @ x).ravel())
        np.testing.assert_allclose(prior.log_prob(jnp.asarray(x)), expected, rtol=1e-12)

    def test_samples_follow_it(self):
        prior = Harmonic(self.BONDS, N, 2.5)
        x = np.asarray(jax.vmap(lambda key: prior.sample(N, 3, key=key))(jax.random.split(jax.random.key(0), 20_000)))
        np.testing.assert_allclose(x.mean(axis=1), 0.0, atol=1e-12)
        # Each bond has a mean square length of D / stiffness in a chain or a star: springs in a tree are independent.
        for i, j in self.BONDS:
            assert abs(np.mean(np.sum((x[:, i] - x[:, j]) ** 2, axis=-1)) - 3 / 2.5) < 0.05

    def test_loose_particles_are_refused(self):
        with pytest.raises(TargetError, match="bonds that join all particles"):
            Harmonic(((0, 1), (2, 3)), N)
        with pytest.raises(TargetError, match="target with bonds"):
            Harmonic((), N)
