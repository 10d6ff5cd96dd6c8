"""Wasserstein distances: closed forms, floors, and intervals that hold by simulation."""

import numpy as np
import pytest
from scipy import stats

from boltzflow.analysis import correlation, transport
from boltzflow.errors import DataError


def test_sorted_differences_are_the_distance_of_equally_many_numbers():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(2.0, 1.5, size=500)
    assert transport.on_line(a, b, replicas=20).value == pytest.approx(np.sqrt(np.mean((np.sort(a) - np.sort(b)) ** 2)))


def test_normals_are_as_far_apart_as_their_means_and_widths():
    rng = np.random.default_rng(1)
    found = transport.on_line(rng.normal(size=20_000), rng.normal(1.0, 3.0, size=20_000), replicas=50)
    assert found.value == pytest.approx(np.hypot(1.0, 2.0), rel=0.02)
    assert found.low < np.hypot(1.0, 2.0) < found.high


def test_weights_make_one_density_of_another():
    rng = np.random.default_rng(2)
    x = rng.normal(0.0, 1.5, size=10_000)
    log_w = stats.norm.logpdf(x) - stats.norm.logpdf(x, 0.0, 1.5)
    raw, weighted = (transport.on_line(x, rng.normal(size=10_000), log_w=w, replicas=50) for w in (None, log_w))
    assert raw.value == pytest.approx(0.5, rel=0.1)
    assert raw.low > 0.3
    assert weighted.low == 0.0
    assert weighted.value < 3.0 * weighted.floor


@pytest.mark.parametrize(("shift", "n"), [(0.0, 200), (0.2, 200), (1.0, 200)])
def test_intervals_on_a_line_hold(shift, n):
    held = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        found = transport.on_line(rng.normal(size=n) + shift, rng.normal(size=n), seed=seed, replicas=40)
        held.append(found.low <= shift <= found.high)
    assert np.mean(held) >= 0.9


def test_intervals_hold_for_chains_and_weights():
    held = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=800) * np.sqrt(1 - 0.9**2)
        chain = np.zeros(800)
        for i in range(1, 800):
            chain[i] = 0.9 * chain[i - 1] + noise[i]
        x = rng.normal(0.0, 1.4, size=500)
        log_w = stats.norm.logpdf(x) - stats.norm.logpdf(x, 0.0, 1.4)
        found = transport.on_line(x, chain, log_w=log_w, grouping=correlation.of_series(chain), seed=seed, replicas=40)
        held.append(found.low <= 0.0 <= found.high)
    assert np.mean(held) >= 0.9


def test_the_floor_is_what_two_sets_of_one_density_are_apart():
    apart, floors = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        found = transport.on_line(rng.normal(size=400), rng.normal(size=400), seed=seed, replicas=60)
        apart.append(found.value)
        floors.append(found.floor)
    assert np.mean(floors) == pytest.approx(np.mean(apart), rel=0.15)


def test_torsions_go_the_shorter_way():
    rng = np.random.default_rng(3)
    angles = (np.pi + 0.1 * rng.normal(size=(800, 2)) + np.pi) % (2 * np.pi) - np.pi
    turned = (angles[:400] + 0.5 + np.pi) % (2 * np.pi) - np.pi
    found = transport.on_torus(turned, angles, most=200)
    assert found.value == pytest.approx(0.5 * np.sqrt(2), abs=0.05)
    assert found.low <= 0.5 * np.sqrt(2) <= found.high
    assert transport.on_torus(angles[:400], angles[400:], most=200).low == 0.0


def test_intervals_of_exact_transport_hold():
    for shift in (0.0, 0.7):
        held = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            found = transport.in_space(rng.normal(size=(150, 2)) + [shift, 0.0], rng.normal(size=(300, 2)), seed=seed)
            held.append(found.low <= shift <= found.high)
        assert np.mean(held) >= 0.9


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match=r"shapes \(n, k\) and \(m, k\)"):
        transport.in_space(np.zeros((5, 2)), np.zeros((9, 3)))
    with pytest.raises(DataError, match="twice as many frames"):
        transport.in_space(np.zeros((5, 2)), np.zeros((2, 2)))
    with pytest.raises(DataError, match="finite where a sample has weight"):
        transport.on_line([0.0, np.nan], [0.0, 1.0], log_w=[0.0, 0.0])
    assert transport.on_line([0.0, 1.0, np.nan], np.arange(3.0), log_w=[0.0, 0.0, -np.inf]).value >= 0.0
