"""Centring, linear assignment and Kabsch alignment against SciPy, and on the inputs where shortcuts break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from boltzflow.errors import DataError
from boltzflow.geometry import alignment, assignment, center_of_mass, orthogonal


def _cost(costs, permutations):
    return np.take_along_axis(costs, permutations[..., None], axis=2).sum(axis=(1, 2))


def _scipy_cost(costs):
    return np.array([cost[linear_sum_assignment(cost)].sum() for cost in costs])


def _make_costs(kind, n, rng, batch):
    if kind == "random":
        return rng.normal(size=(batch, n, n))
    if kind == "positions":
        x, y = rng.normal(size=(2, batch, n, 3))
        return np.square(x[:, :, None] - y[:, None]).sum(-1)
    if kind == "ties":
        return rng.integers(-1, 2, (batch, n, n)).astype(float)
    if kind == "equal points":
        x, y = rng.integers(0, 2, (2, batch, n, 2))
        return np.square(x[:, :, None] - y[:, None]).sum(-1).astype(float)
    if kind == "equal rows":
        return np.broadcast_to(0.1 * rng.integers(0, 2, (batch, n, 1)), (batch, n, n))
    if kind == "one expensive row":
        return rng.uniform(size=(batch, n, n)) * np.where(np.arange(n) == 0, 1e6, 1.0)[:, None]
    return np.zeros((batch, n, n))


@pytest.mark.parametrize("kind", ["random", "positions", "ties", "equal points", "equal rows", "one expensive row", "zero"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 13, 16, 17, 33])
def test_assignment_is_optimal(kind, n):
    costs = _make_costs(kind, n, np.random.default_rng(n), 40)
    permutations = assignment.assign_batch(costs)
    assert np.array_equal(np.sort(permutations, axis=1), np.broadcast_to(np.arange(n), (40, n)))
    np.testing.assert_allclose(_cost(costs, permutations), _scipy_cost(costs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["random", "positions", "ties", "equal points", "equal rows", "zero"])
@pytest.mark.parametrize("n", [128, 257])
def test_large_assignment_is_optimal(kind, n):
    cost = _make_costs(kind, n, np.random.default_rng(n), 1)
    permutation = assignment.assign(cost[0])
    assert np.array_equal(np.sort(permutation), np.arange(n))
    np.testing.assert_allclose(_cost(cost, permutation[None]), _scipy_cost(cost), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e12, 1e30])
def test_assignment_does_not_depend_on_the_unit(scale):
    costs = np.random.default_rng(0).normal(size=(20, 7, 7))
    assert np.array_equal(assignment.assign_batch(costs), assignment.assign_batch(costs * scale))


def test_assignment_adds_a_constant_to_a_row_or_column_without_effect():
    rng = np.random.default_rng(1)
    costs = rng.normal(size=(50, 9, 9))
    shifted = costs + 3.0 * rng.normal(size=(50, 9, 1)) + 3.0 * rng.normal(size=(50, 1, 9))
    assert np.array_equal(assignment.assign_batch(costs), assignment.assign_batch(shifted))


def test_assignment_refuses_what_it_cannot_solve():
    with pytest.raises(DataError, match="square"):
        assignment.assign(np.zeros((2, 3)))
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="finite"):
            assignment.assign(np.full((3, 3), bad))
    assert assignment.assign_batch(np.zeros((0, 3, 3))).shape == (0, 3)
    assert assignment.assign(np.zeros((0, 0))).shape == (0,)


def _configurations(kind, dimension, rng, batch=50, n=7):
    a, b = rng.normal(size=(2, batch, n, dimension))
    if kind == "planar":
        a[..., -1] = 0.0
    if kind == "both planar":
        a[..., -1] = 0.0
        b[..., 0] = 0.0
    if kind == "collinear":
        a[..., 1:] = 0.0
        b[..., :-1] = 0.0
    if kind == "zero":
        a[:] = 0.0
    if kind == "equal":
        b = a.copy()
    if kind == "mirrored":
        b = -a
    if kind == "tetrahedron":  # all singular values equal, the smallest negative
        corners = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:, :dimension]
        a = np.broadcast_to(corners, (batch, 4, dimension)).copy()
        b = -a
    return a, b


def _best_trace(a, b, reflections):
    s = np.einsum("bni,bnj->bij", b, a)
    values = np.linalg.svd(s, compute_uv=False)
    if not reflections:
        values[:, -1] *= np.where(np.linalg.det(s) < 0, -1.0, 1.0)
    return s, values.sum(axis=1)


@pytest.mark.parametrize("kind", ["generic", "planar", "both planar", "collinear", "zero", "equal", "mirrored", "tetrahedron"])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("reflections", [False, True])
def test_alignment_is_optimal(kind, dimension, reflections):
    a, b = _configurations(kind, dimension, np.random.default_rng(2))
    turns = alignment.align_batch(a, b, reflections=reflections)
    s, best = _best_trace(a, b, reflections)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(dimension), turns.shape), atol=1e-12)
    if not reflections:
        np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.einsum("bij,bji->b", turns, s), best, atol=1e-11)
    overlaps = [alignment.overlap(matrix, dimension, reflections) for matrix in s]
    np.testing.assert_allclose(overlaps, best, atol=1e-6)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e6])
def test_overlap_does_not_depend_on_the_unit(size):
    a, b = _configurations("generic", 3, np.random.default_rng(3))
    s, best = _best_trace(a * size, b, False)
    np.testing.assert_allclose([alignment.overlap(matrix, 3, False) for matrix in s], best, rtol=1e-9)


def test_alignment_recovers_a_rotation_and_a_reflection():
    rng = np.random.default_rng(4)
    b = rng.normal(size=(30, 6, 3))
    turns = Rotation.from_quat(rng.normal(size=(30, 4))).as_matrix()
    np.testing.assert_allclose(alignment.align_batch(b @ turns.transpose(0, 2, 1), b), turns, atol=1e-10)
    mirrors = -turns
    np.testing.assert_allclose(alignment.align_batch(b @ mirrors.transpose(0, 2, 1), b, reflections=True), mirrors, atol=1e-10)
    half_turn = np.diag([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(alignment.align_batch(b @ half_turn, b), np.broadcast_to(half_turn, (30, 3, 3)), atol=1e-10)
    angle = 2.0
    plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = b[..., :2]
    np.testing.assert_allclose(alignment.align_batch(flat @ plane.T, flat), np.broadcast_to(plane, (30, 2, 2)), atol=1e-10)


def test_alignment_agrees_with_scipy_and_beats_perturbations():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 20, 5, 3))
    turns = alignment.align_batch(a, b)
    for x, y, turn in zip(a, b, turns, strict=True):
        np.testing.assert_allclose(turn, Rotation.align_vectors(x, y)[0].as_matrix(), atol=1e-8)
        best = np.square(x - y @ turn.T).sum()
        for nudge in Rotation.from_rotvec(0.1 * rng.normal(size=(20, 3))).as_matrix():
            assert np.square(x - y @ (nudge @ turn).T).sum() >= best


def test_alignment_refuses_shapes_that_do_not_fit():
    with pytest.raises(DataError, match=r"\(1, 4, 3\) and \(1, 5, 3\)"):
        alignment.align_batch(np.zeros((1, 4, 3)), np.zeros((1, 5, 3)))
    with pytest.raises(DataError, match="2 or 3"):
        alignment.align_batch(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))


@pytest.mark.parametrize("determinant", [None, 1.0, -1.0])
def test_random_orthogonal_matrices_are_uniform(determinant):
    """Moments of the Haar measure: entries have mean 0 and mean square 1/D, traces have mean 0 and mean square 1."""
    matrices = orthogonal.haar(np.random.default_rng(0), 20_000, 3, determinant=determinant)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-12)
    signs = np.linalg.det(matrices)
    if determinant is None:
        assert abs(signs.mean()) < 0.03
    else:
        np.testing.assert_allclose(signs, determinant)
    np.testing.assert_allclose(matrices.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose((matrices**2).mean(axis=0), 1 / 3, atol=0.01)
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 0.03
    assert abs((traces**2).mean() - 1.0) < 0.04


@pytest.mark.parametrize("dimension", [2, 3])
def test_principal_axes(dimension):
    x = np.random.default_rng(8).normal(size=(9, dimension)) * np.arange(1, dimension + 1)
    axes = np.empty((dimension, dimension))
    alignment.principal_axes(x, axes, np.empty((8, 4)))
    moments = axes.T @ x.T @ x @ axes
    np.testing.assert_allclose(moments, np.diag(np.linalg.eigvalsh(x.T @ x)[::-1]), atol=1e-10)
    np.testing.assert_allclose(np.linalg.det(axes), 1.0)


def test_centring():
    x = np.random.default_rng(9).normal(size=(3, 5, 2)).astype(np.float32) + 4
    centred = center_of_mass.center(x)
    assert centred.dtype == np.float32
    np.testing.assert_allclose(centred.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(centred[:, 0] - centred[:, 1], x[:, 0] - x[:, 1], atol=1e-5)
    assert isinstance(center_of_mass.center(jnp.asarray(x)), jax.Array)
    np.testing.assert_allclose(jax.jit(center_of_mass.center)(x), centred, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 13])
def test_zero_com_basis(n):
    basis = center_of_mass.basis(n)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n - 1), atol=1e-14)
    np.testing.assert_allclose(basis.sum(axis=0), 0.0, atol=1e-14)
    x = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(basis @ (basis.T @ x), center_of_mass.center(x), atol=1e-14)
