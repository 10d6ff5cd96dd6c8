"""What every pairing must keep: each frame once, classes, chirality, distances; and what each one minimises."""

import itertools
import threading

import numba.core.caching
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from boltzflow.errors import BoltzflowError, ConfigError, DataError
from boltzflow.geometry import _numba
from boltzflow.objectives.pairing import pair

FORMS = {
    "independent": {"pairing": "independent", "full_cost": False},
    "optimal-transport": {"pairing": "optimal-transport", "full_cost": False},
    "cheap": {"pairing": "equivariant-optimal-transport", "full_cost": False},
    "full": {"pairing": "equivariant-optimal-transport", "full_cost": True},
}


def _batch(n_batch, n, dimension, seed=0):
    """Prior samples, and frames that are a jittered fixed cluster in random orientation and order of particles."""
    rng = np.random.default_rng(seed)
    prior = rng.normal(size=(n_batch, n, dimension))
    cluster = rng.normal(size=(n, dimension)) * 1.2
    data = cluster + 0.1 * rng.normal(size=(n_batch, n, dimension))
    turns = Rotation.from_quat(rng.normal(size=(n_batch, 4))).as_matrix() if dimension == 3 else np.broadcast_to(np.eye(2), (n_batch, 2, 2))
    data = rng.permuted(data, axis=0) @ turns
    data = np.stack([frame[rng.permutation(n)] for frame in data])
    return tuple((x - x.mean(axis=1, keepdims=True)).astype(np.float32) for x in (prior, data))


def _distances(x, classes):
    """Sorted distances of each frame, for each pair of classes: what permutations within classes and O(D) leave alone."""
    r = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    parts = []
    for a, b in itertools.combinations_with_replacement(np.unique(classes), 2):
        block = r[:, classes == a][:, :, classes == b]
        parts.append(np.sort(block.reshape(len(x), -1), axis=1))
    return np.concatenate(parts, axis=1)


def _origin(matched, data, classes):
    """For each matched frame the one frame of `data` that it is a copy of, by its distances."""
    gap = np.abs(_distances(matched, classes)[:, None] - _distances(data, classes)[None]).max(axis=2)
    assert np.all(gap.min(axis=1) < 2e-5)
    return gap.argmin(axis=1)


def _mean_cost(a, b):
    return np.square(a.astype(np.float64) - b).sum(axis=(1, 2)).mean()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.parametrize("classes", [[0] * 6, [3, 1, 3, 1, 1, 0], [5, 4, 3, 2, 1, 0]])
def test_each_frame_is_used_once_up_to_a_symmetry(form, dimension, reflections, classes):
    classes = np.array(classes)
    prior, data = _batch(24, 6, dimension)
    kept = prior.copy(), data.copy()
    new_prior, matched, info = pair(prior, data, classes=classes, reflections=reflections, threads=2, **FORMS[form])
    assert np.array_equal(kept[0], prior)
    assert np.array_equal(kept[1], data)
    assert np.array_equal(new_prior, prior)
    assert matched.dtype == new_prior.dtype == np.float32
    assert np.array_equal(np.sort(_origin(matched, data, classes)), np.arange(24))
    np.testing.assert_allclose(matched.mean(axis=1), 0.0, atol=1e-6)
    assert info.cost_before == pytest.approx(_mean_cost(prior, data), rel=1e-6)
    assert info.cost_after == pytest.approx(_mean_cost(prior, matched), rel=1e-6)
    assert info.cost_after <= info.cost_before
    assert info.seconds > 0


def _hand(x):
    """Sign of the volume that the first four particles span, where all particles differ."""
    return np.sign(np.linalg.det((x[:, 1:4] - x[:, :1]).astype(np.float64)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [4, 9])
def test_reflections_only_where_allowed(form, n):
    rng = np.random.default_rng(1)
    data = rng.normal(size=(64, n, 3)).astype(np.float32)
    data *= _hand(data)[:, None, None].astype(np.float32)  # all of one enantiomer
    data -= data.mean(axis=1, keepdims=True)
    prior = rng.normal(size=data.shape).astype(np.float32)
    arguments = {"classes": np.arange(n), **FORMS[form]}
    assert np.all(_hand(pair(prior, data, reflections=False, **arguments)[1]) == 1)
    mirrored = np.mean(_hand(pair(prior, data, reflections=True, **arguments)[1]) == -1)
    assert (0.2 < mirrored < 0.8) if form in ("cheap", "full") else mirrored == 0


def test_reflections_in_two_dimensions():
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], np.float32)
    data = (triangle - triangle.mean(axis=0))[None]
    prior = data * np.array([1.0, -1.0], np.float32)
    for form in ("cheap", "full"):
        mirrored = pair(prior, data, classes=np.arange(3), reflections=True, **FORMS[form])[1]
        np.testing.assert_allclose(mirrored, prior, atol=1e-6)
        turned = pair(prior, data, classes=np.arange(3), reflections=False, **FORMS[form])[1]
        assert np.linalg.det(turned[0, 1:] - turned[0, :1]) * np.linalg.det(data[0, 1:] - data[0, :1]) > 0


@pytest.mark.parametrize("form", ["cheap", "full"])
def test_particles_of_different_classes_are_never_swapped(form):
    # Particles carry their class as their distance from the origin.
    rng = np.random.default_rng(2)
    classes = np.array([0, 1, 0, 2, 1, 0, 2, 3])
    data = rng.normal(size=(16, 8, 3))
    data *= ((1.0 + classes) / np.linalg.norm(data, axis=2))[..., None]
    prior = rng.normal(size=data.shape)
    matched = pair(prior.astype(np.float32), data.astype(np.float32), classes=classes, reflections=True, **FORMS[form])[1]
    np.testing.assert_allclose(np.linalg.norm(matched, axis=2), np.broadcast_to(1.0 + classes, (16, 8)), atol=1e-5)


def test_optimal_transport_is_optimal():
    prior, data = _batch(6, 4, 3, seed=3)
    cost = np.square(prior[:, None] - data[None]).sum(axis=(2, 3))
    best = min(cost[range(6), list(p)].sum() for p in itertools.permutations(range(6)))
    info = pair(prior, data, classes=np.zeros(4, int), reflections=True, **FORMS["optimal-transport"])[2]
    assert 6 * info.cost_after == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.parametrize("dimension", [2, 3])
def test_full_cost_is_the_published_algorithm(reflections, dimension):
    """Brute force in NumPy: all particle permutations, SVD, all permutations of the batch."""
    prior, data = _batch(5, 4, dimension, seed=4)
    classes = np.array([0, 1, 0, 0])
    allowed = [p for p in itertools.permutations(range(4)) if p[1] == 1]
    cost = np.empty((5, 5))
    for a, b in itertools.product(range(5), range(5)):
        p = min(allowed, key=lambda p: np.square(prior[a] - data[b][list(p)]).sum())
        s = data[b][list(p)].T @ prior[a]
        values = np.linalg.svd(s, compute_uv=False)
        if not reflections and np.linalg.det(s) < 0:
            values[-1] *= -1
        cost[a, b] = np.square(prior[a]).sum() + np.square(data[b]).sum() - 2 * values.sum()
    best = min(cost[range(5), list(p)].mean() for p in itertools.permutations(range(5)))
    info = pair(prior, data, classes=classes, reflections=reflections, **FORMS["full"])[2]
    assert info.cost_after == pytest.approx(best, rel=1e-4)


def test_order_of_the_costs():
    prior, data = _batch(128, 8, 3, seed=5)
    cost = {name: pair(prior, data, classes=np.zeros(8, int), reflections=True, **form)[2].cost_after for name, form in FORMS.items()}
    assert cost["full"] < cost["cheap"] < 0.6 * cost["optimal-transport"]
    assert cost["optimal-transport"] < cost["independent"]


@pytest.mark.parametrize("form", ["cheap", "full"])
def test_the_threads_do_not_change_the_result(form):
    prior, data = _batch(37, 6, 3, seed=6)
    results = [pair(prior, data, classes=np.zeros(6, int), reflections=True, threads=t, **FORMS[form])[1] for t in (0, 1, 2, 5, 100)]
    for result in results[1:]:
        assert np.array_equal(result, results[0])


def test_several_python_threads_may_pair_at_once():
    batches = [_batch(32, 6, 3, seed=s) for s in range(6)]
    arguments = {"classes": np.zeros(6, int), "reflections": True, "threads": 2, **FORMS["full"]}
    expected = [pair(*batch, **arguments)[1] for batch in batches]
    found: list = [None] * len(batches)

    def work(k):
        found[k] = pair(*batches[k], **arguments)[1]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("form", ["cheap", "full"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_degenerate_frames(form, dimension):
    """Equal frames, zeros, collinear frames, one pair, one particle: an answer that is a symmetry, and no NaN."""
    prior, data = _batch(8, 5, dimension, seed=7)
    data[:2] = 0.0
    data[2:4, :, 1:] = 0.0
    data[5] = data[4]
    prior[0] = 0.0
    prior[1, :, 1:] = 0.0
    classes = np.zeros(5, int)
    matched = pair(prior, data, classes=classes, reflections=False, **FORMS[form])[1]
    assert np.isfinite(matched).all()
    np.testing.assert_allclose(np.sort(_distances(matched, classes), axis=0), np.sort(_distances(data, classes), axis=0), atol=2e-5)
    one = pair(prior[4:5], data[4:5], classes=classes, reflections=False, **FORMS[form])[1]
    assert one.shape == (1, 5, dimension)
    single = np.zeros((3, 1, dimension), np.float32)
    assert np.array_equal(pair(single, single, classes=np.zeros(1, int), reflections=True, **FORMS[form])[1], single)


def test_frames_that_are_copies_of_the_prior_are_found():
    """With data that are the prior samples slightly turned, both forms bring the cost to zero."""
    prior, _ = _batch(20, 6, 3, seed=8)
    turns = Rotation.from_rotvec(0.05 * np.random.default_rng(0).normal(size=(20, 3))).as_matrix().astype(np.float32)
    data = (prior @ turns)[::-1]
    for form in ("cheap", "full"):
        info = pair(prior, data, classes=np.zeros(6, int), reflections=False, **FORMS[form])[2]
        assert info.cost_after < 1e-9


def test_errors_say_what_is_wrong():
    prior, data = _batch(4, 5, 3)
    good = {"pairing": "equivariant-optimal-transport", "full_cost": False, "classes": np.zeros(5, int), "reflections": True}
    cases = [
        ((prior, data), {"pairing": "optimal-transprt"}, ConfigError, "did you mean 'optimal-transport'"),
        ((prior[:3], data), {}, DataError, r"\(3, 5, 3\) and \(4, 5, 3\)"),
        ((prior[0], data[0]), {}, DataError, "one shape"),
        ((prior, data), {"classes": np.zeros(4, int)}, DataError, "There are 5 particles"),
        ((np.zeros((2, 5, 4)), np.zeros((2, 5, 4))), {}, DataError, "2 or 3 dimensions, not 4"),
        ((prior, np.full_like(data, np.nan)), {}, DataError, "finite"),
    ]
    for arrays, change, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            pair(*arrays, **(good | change))
        assert isinstance(caught.value, BoltzflowError)
        assert "\n" not in str(caught.value)


def test_kernels_work_where_no_cache_folder_can_be_written(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    @_numba.kernel
    def double(x):
        return 2 * x

    assert double(3) == 6
