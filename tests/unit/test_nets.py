"""Vector fields: their symmetries, their exact divergence, and where they must stay finite."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.nets import EGNN, AbstractSparseVectorField, TwoInteraction
from boltzflow.nets.mlp import sigmoid, silu

TIME = 0.37
CUTOFF = 1.9


def filled(make: Callable[[], Any], dtype: Any) -> Any:
    """A network with parameters of order one everywhere, biases too, so that no term is too small to be missed."""
    shapes, static = eqx.partition(eqx.filter_eval_shape(make), lambda a: isinstance(a, jax.ShapeDtypeStruct))
    rng = np.random.default_rng(0)

    def draw(a: jax.ShapeDtypeStruct) -> Any:
        return jnp.asarray(rng.normal(size=a.shape) / np.sqrt(a.shape[-2] if a.ndim > 1 else 4.0), dtype)

    return eqx.combine(jax.tree.map(draw, shapes), static)


def egnn(types: tuple[int, ...], *, cutoff: float | None = None, layers: int = 3, dtype: Any = jnp.float32) -> EGNN:
    # The published network has neither radial functions nor, in some versions, attention.
    published = layers == 2
    options: dict[str, Any] = {"radial": 0 if published else 4, "attention": not published}
    return filled(lambda: EGNN(types, layers=layers, hidden=8, cutoff=cutoff, key=jax.random.key(0), **options), dtype)


def two_interaction(types: tuple[int, ...], *, cutoff: float | None = None, dtype: Any = jnp.float32) -> TwoInteraction:
    def make() -> TwoInteraction:
        # Of one type there is one pair only.
        options: dict[str, Any] = {"typed_pairs": max(types) > 0, "cutoff": cutoff}
        return TwoInteraction(types, layers=2, hidden=8, radial=6, channels=3, key=jax.random.key(0), **options)

    return filled(make, dtype)


def compiled(function: Callable[..., Any], *examples: Any) -> Callable[..., Any]:
    """Compiled without optimisation: these programs run once or twice."""
    # Annotated by JAX as strings and truth values only, though XLA wants a number here.
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    program = jax.jit(function).lower(*examples).compile(options)

    def call(*arguments: Any) -> Any:
        # 64 bits for this call alone: switched on in a fixture that yields, they would leak into other tests.
        with jax.enable_x64(True):
            values = [jnp.asarray(a, example.dtype) for a, example in zip(arguments, examples, strict=True)]
            return jax.tree.map(np.asarray, program(*values))

    return call


MAKERS: dict[str, Callable[..., AbstractSparseVectorField]] = {"egnn": egnn, "two-interaction": two_interaction}
KINDS: dict[str, tuple[tuple[int, ...], float | None]] = {
    "one type": ((0, 0, 0, 0, 0), None),
    "three types, cut-off": ((1, 0, 2, 0, 1), CUTOFF),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A field of five particles in float64 with some configurations of it."""

    types: tuple[int, ...]
    cutoff: float | None
    dimension: int
    positions: np.ndarray
    velocity: Callable[[np.ndarray], np.ndarray]


CASES = [(name, dimension, kind) for name in MAKERS for dimension in (2, 3) for kind in KINDS]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {case[1]}-D, {case[2]}")
def case(request):
    name, dimension, kind = request.param
    types, cutoff = KINDS[kind]
    positions = np.random.default_rng(1).normal(size=(3, 5, dimension))
    with jax.enable_x64(True):
        field = MAKERS[name](types, cutoff=cutoff, dtype=jnp.float64)
        velocity = compiled(jax.vmap(lambda x: field(jnp.asarray(TIME, x.dtype), x)), positions)
    assert np.abs(velocity(positions)).max() > 0.1
    return Case(types, cutoff, dimension, positions, velocity)


def orthogonal(dimension: int, *, determinant: int) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(5).normal(size=(dimension, dimension)))[0]
    q[:, 0] *= determinant * np.linalg.det(q)
    return q


class TestSymmetries:
    @pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
    def test_rotations_and_reflections(self, case, determinant):
        q = orthogonal(case.dimension, determinant=determinant)
        assert np.linalg.det(q) == pytest.approx(determinant)
        np.testing.assert_allclose(case.velocity(case.positions @ q), case.velocity(case.positions) @ q, atol=1e-11)

    def test_translations(self, case):
        np.testing.assert_allclose(case.velocity(case.positions + 2.5), case.velocity(case.positions), atol=1e-11)

    def test_zero_mean_velocity(self, case):
        np.testing.assert_allclose(case.velocity(case.positions).mean(axis=1), 0.0, atol=1e-14)

    def test_permutations_of_equivalent_particles(self, case):
        order = np.arange(5)
        for kind in set(case.types):
            alike = np.flatnonzero(np.asarray(case.types) == kind)
            order[alike] = np.roll(alike, 1)
        assert list(order) != list(range(5))
        np.testing.assert_allclose(case.velocity(case.positions[:, order]), case.velocity(case.positions)[:, order], atol=1e-11)

    def test_particles_of_different_types_are_told_apart(self, case):
        for i, j in ((0, 1), (1, 2), (0, 2)):
            order = np.arange(5)
            order[[i, j]] = [j, i]
            gap = np.abs(case.velocity(case.positions[:, order]) - case.velocity(case.positions)[:, order]).max()
            assert (gap > 1e-3) == (case.types[i] != case.types[j])

    def test_beyond_the_cutoff_nothing_is_seen(self, case):
        rng = np.random.default_rng(3)
        near, far = 0.4 * rng.normal(size=(3, case.dimension)), rng.normal(size=(2, case.dimension)) + 20.0
        outwards = (near[0] - near.mean(axis=0)) / np.linalg.norm(near[0] - near.mean(axis=0))

        def of_the_first_three(others: list[np.ndarray]) -> np.ndarray:
            velocity = case.velocity(np.stack([np.concatenate([near, other]) for other in others]))[:, :3]
            # The mean velocity that was taken off is the far particles' too.
            return velocity - velocity.mean(axis=1, keepdims=True)

        def one_at(distance: float) -> np.ndarray:
            # On the line through the middle and particle 0, which is the nearest of the three.
            return np.stack([near[0] + distance * outwards, far[1]])

        alone, moved, at_the_edge = of_the_first_three([far, -1.5 * far, one_at(CUTOFF + 1e-9)])
        _, inside, well_inside = of_the_first_three([far, one_at(CUTOFF - 1e-3), one_at(0.5 * CUTOFF)])
        if case.cutoff is None:
            assert np.abs(moved - alone).max() > 1e-3
            return
        np.testing.assert_allclose(moved, alone, atol=1e-12)
        np.testing.assert_allclose(at_the_edge, alone, atol=1e-12)
        np.testing.assert_allclose(inside, alone, atol=1e-4)
        assert np.abs(well_inside - alone).max() > 1e-3


@pytest.mark.parametrize(("own", "known"), [(silu, jax.nn.silu), (sigmoid, jax.nn.sigmoid)])
def test_activations_are_the_usual_ones_at_all_arguments(own, known):
    with jax.enable_x64(True):
        x = jnp.concatenate([jnp.linspace(-50.0, 50.0, 1001), jnp.asarray([-1e4, 1e4])])
        np.testing.assert_allclose(own(x), known(x), rtol=1e-14, atol=1e-12)
        np.testing.assert_allclose(jax.vmap(jax.grad(own))(x), jax.vmap(jax.grad(known))(x), rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_finite_with_finite_gradients_where_particles_meet(name):
    field = MAKERS[name]((0, 0, 1, 1))
    positions = {
        "all in one place": np.zeros((4, 3)),
        "two in one place": [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]],
        "collinear": [[-1.5, 0, 0], [-0.5, 0, 0], [0.5, 0, 0], [1.5, 0, 0]],
        "collinear, two in one place": [[-1, -1, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]],
        "very far apart": 1e4 * np.eye(4)[:, :3],
    }
    parameters, static = eqx.partition(field, eqx.is_inexact_array)
    t = jnp.float32(TIME)

    def everything(x: Any) -> dict[str, Any]:
        gradient = jax.grad(lambda p: jnp.sum(eqx.combine(p, static)(t, x) ** 2))(parameters)
        return {"velocity": field(t, x), "gradient": gradient, "divergence": field.velocity_and_divergence(t, x)}

    x = jnp.asarray(np.stack([np.asarray(value, np.float32) for value in positions.values()]))
    for path, part in jax.tree_util.tree_leaves_with_path(compiled(jax.vmap(everything), x)(x)):
        for index, label in enumerate(positions):
            assert np.all(np.isfinite(part[index])), f"{label}: {jax.tree_util.keystr(path)}"


@pytest.mark.parametrize("name", MAKERS)
def test_float32_stays_float32(name):
    # With 64 bits switched on, so that any stray double would show.
    with jax.enable_x64(True):
        field = MAKERS[name]((0, 1, 0), cutoff=CUTOFF)
        t, positions = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((3, 3), jnp.float32)
        assert jax.eval_shape(field, t, positions).dtype == jnp.float32
        velocity, divergence = jax.eval_shape(lambda t, x: field.velocity_and_divergence(t, x), t, positions)
    assert (velocity.dtype, divergence.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize("name", MAKERS)
def test_depends_on_time(name):
    field = MAKERS[name]((0,) * 3)
    positions = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    times = jnp.array([0.0, 0.5, 1.0])
    velocity = compiled(jax.vmap(lambda t: field(t, positions)), times)(times)
    assert np.abs(np.diff(velocity, axis=0)).max(axis=(1, 2)).min() > 1e-3


# The first layers and those between are made by different code, which one and three layers have all of.
ONE_TO_FOUR_LAYERS = [
    functools.partial(egnn, layers=1),
    pytest.param(functools.partial(egnn, layers=2), marks=pytest.mark.slow),
    functools.partial(egnn, layers=3),
    pytest.param(functools.partial(egnn, layers=4), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", [EGNN, TwoInteraction])
def test_depends_on_the_temperature_where_it_is_told_one(kind):
    field = filled(lambda: kind((0, 0, 1), hidden=8, tempered=True, key=jax.random.key(0)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    cold, hot = field.at(jnp.zeros(())), field.at(jnp.log(3.0))
    velocities = [np.asarray(f(jnp.float32(TIME), x)) for f in (cold, hot)]
    assert np.abs(velocities[0] - velocities[1]).max() > 1e-3
    # At the target's temperature its features are zero; the rest of the network does not know.
    assert float(hot.log_temperature) == pytest.approx(np.log(3.0))
    plain = kind((0, 0, 1), hidden=8, key=jax.random.key(0))
    assert plain.log_temperature is None
    with pytest.raises(ValueError, match="no temperature"):
        plain.at(jnp.zeros(()))


def label(make: Any) -> str:
    return f"egnn-{make.keywords['layers']}" if isinstance(make, functools.partial) else "two-interaction"


@pytest.mark.parametrize(
    ("types", "dimension", "cutoff"),
    [((0, 0), 2, None), ((0, 0, 0, 0), 2, 1.5), ((0, 1, 0), 3, None), ((2, 0, 1, 1, 0, 2), 3, 2.5)],
    ids=str,
)
@pytest.mark.parametrize("make", [two_interaction, *ONE_TO_FOUR_LAYERS], ids=label)
def test_sparse_divergence_is_the_trace_of_the_jacobian(make, types, dimension, cutoff):
    with jax.enable_x64(True):
        field = make(types, cutoff=cutoff, dtype=jnp.float64)
        positions = np.random.default_rng(len(types)).normal(size=(5, len(types), dimension))
        positions[-1, 1] = positions[-1, 0]  # two in one place: no direction between them
        times = np.array([0.0, 0.2, 0.8, 1.0, 0.5])

        def both(t: Any, x: Any) -> Any:
            jacobian = jax.jacfwd(lambda x: field(t, x))(x)
            return jnp.einsum("iaia->", jacobian), field(t, x), field.velocity_and_divergence(t, x)

        exact, velocity, (same_velocity, divergence) = compiled(jax.vmap(both), times, positions)(times, positions)
    assert np.abs(exact).min() > 1e-3
    np.testing.assert_allclose(divergence[:-1], exact[:-1], rtol=1e-10, atol=1e-10)
    # The Jacobian of a direction of length 1e-6 is 1e6: digits are lost where particles meet.
    np.testing.assert_allclose(divergence[-1], exact[-1], rtol=1e-6)
    np.testing.assert_allclose(same_velocity, velocity, rtol=1e-11, atol=1e-11)


def equations(jaxpr: Any) -> int:
    """Equations of a program, those of its inner programs too."""
    parts = (part for equation in jaxpr.eqns for part in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")))
    return len(jaxpr.eqns) + sum(equations(getattr(part, "jaxpr", part)) for part in parts if hasattr(part, "eqns"))


def test_depth_does_not_enlarge_the_program():
    def size(layers: int) -> int:
        field = egnn((0, 0, 0), layers=layers)
        return equations(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(field(jnp.float32(TIME), x) ** 2)))(jnp.ones((3, 3))).jaxpr)

    assert size(3) == size(7)
    assert size(3) > size(1) > 50
