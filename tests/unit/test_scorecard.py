"""The scorecard: right values, what does not apply, wrong inputs; intervals by simulation."""

import dataclasses
import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import boltzflow as bf
from boltzflow.analysis import pooled, tica, transport, trimmed, weights
from boltzflow.cli import output
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.evaluation import scorecard, slow_modes
from boltzflow.evaluation.scorecard import KEYS
from boltzflow.flows.status import Status
from boltzflow.geometry import matching
from boltzflow.geometry.orthogonal import haar
from boltzflow.reference.dynamics import SAMPLER
from boltzflow.report import contents
from boltzflow.report import scorecard as report_scorecard
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target
from checking import unchecked

_spec = importlib.util.spec_from_file_location("coverage_tool", Path(__file__).parents[2] / "tools" / "interval_coverage.py")
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("coverage_tool", tool)
_spec.loader.exec_module(tool)

SQUARE = 1.5 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def dw4() -> Target:
    return bf.targets.get("dw4")


def configurations(rng: np.random.Generator, n: int) -> np.ndarray:
    x = SQUARE + 0.2 * rng.normal(size=(n, 4, 2))
    return x - x.mean(axis=1, keepdims=True)


def frames_of(positions: np.ndarray, u: np.ndarray | None = None, target: Target | None = None, **provenance: str | float) -> Dataset:
    target = dw4() if target is None else target
    return Dataset(positions, target.fingerprint, target.units, provenance, energies=u)


def samples_of(positions: np.ndarray, u: np.ndarray, log_w: np.ndarray, target: Target | None = None) -> Samples:
    zeros, none = np.zeros(len(u)), np.zeros(len(u), np.int32)
    meta = {"fingerprint": (dw4() if target is None else target).fingerprint, "target": "dw4"}
    return Samples(positions, -u - log_w, u, none, none, zeros, meta)


def test_energies_are_as_far_apart_as_their_closed_form_and_weights_mend_it():
    rng = np.random.default_rng(0)
    n = 1_000
    u = rng.normal(0.0, 1.5, n)
    log_w = stats.norm.logpdf(u) - stats.norm.logpdf(u, 0.0, 1.5)
    reference = frames_of(configurations(rng, n), rng.normal(size=n))
    card = scorecard(samples_of(configurations(rng, n), u, log_w), reference, dw4(), seed=0, progress=False)
    raw, reweighted = card["e_w2"]["raw"], card["e_w2"]["reweighted"]
    assert raw["value"] == pytest.approx(0.5, rel=0.1)
    assert 0.3 < raw["low"] <= 0.5 <= raw["high"]
    assert reweighted["low"] == 0.0
    assert reweighted["value"] < 3.0 * reweighted["floor"] < raw["value"]
    assert raw["n"] == n
    assert set(card) == set(KEYS)
    for key in ("distance_w2", "aligned_w2"):
        assert card[key]["raw"]["low"] == 0.0
        assert card[key]["raw"]["value"] < 2.0 * card[key]["raw"]["floor"]
    for key in ("t_w2", "tica_w2", "ramachandran_tv"):
        assert card[key]["raw"]["value"] is None
        assert card[key]["raw"]["note"]
    # Nothing in it that JSON cannot say.
    json.dumps(card, allow_nan=False)


def test_huge_energies_are_told_and_failed_samples_cost_themselves():
    rng = np.random.default_rng(1)
    n = 400
    u = rng.normal(size=n)
    u[:30] = 10.0 ** rng.uniform(2.0, 12.0, 30)
    u[40] = np.inf
    drawn = samples_of(configurations(rng, n), u, np.zeros(n))
    drawn = dataclasses.replace(drawn, status=np.where(np.arange(n) == 50, int(Status.MAX_STEPS), 0))
    card = scorecard(drawn, frames_of(configurations(rng, n), rng.normal(size=n)), dw4(), seed=0, progress=False)
    raw = card["e_w2"]["raw"]
    assert raw["value"] > 1e9
    assert raw["high"] is None
    assert raw["kind"] == "at least"
    assert "1 of 400 samples failed" in raw["note"]
    assert "1 samples whose energy is not finite" in raw["note"]
    assert raw["n"] == n - 2
    assert card["distance_w2"]["raw"]["n"] == n - 1


def test_samples_without_weight_have_raw_figures_alone():
    rng = np.random.default_rng(2)
    x = configurations(rng, 60)
    drawn = dataclasses.replace(samples_of(x, np.zeros(60), np.zeros(60)), log_weight=np.full(60, -np.inf))
    card = scorecard(drawn, frames_of(configurations(rng, 60), np.zeros(60)), dw4(), seed=0, progress=False)
    assert card["aligned_w2"]["raw"]["value"] > 0.0
    assert card["aligned_w2"]["reweighted"] == {
        **dict.fromkeys(("value", "low", "high", "floor")),
        "n": 0,
        "note": "none of the samples has weight",
    }


def test_few_samples_are_told():
    rng = np.random.default_rng(3)
    drawn = samples_of(configurations(rng, 1), np.zeros(1), np.zeros(1))
    card = scorecard(drawn, frames_of(configurations(rng, 2), np.zeros(2)), dw4(), seed=0, progress=False)
    assert "needed at least" in card["e_w2"]["raw"]["note"]


@pytest.mark.parametrize(("particles", "dimension", "reflections"), [(4, 2, True), (4, 2, False), (7, 3, True), (7, 3, False)])
def test_copies_are_at_distance_zero_and_mirror_images_only_where_they_may_be(particles, dimension, reflections):
    rng = np.random.default_rng(4)
    classes = np.array([0, 1] + [0] * (particles - 2))
    x = rng.normal(size=(12, particles, dimension))
    x -= x.mean(axis=1, keepdims=True)
    same = np.flatnonzero(classes == 0)
    y = x.copy()
    for moved in y:
        moved[same] = moved[rng.permutation(same)]
    proper = y @ haar(rng, 12, dimension, determinant=1.0)
    mirrored = proper * np.where(np.arange(dimension) == 0, -1.0, 1.0)
    options = {"classes": classes, "reflections": reflections}
    assert np.diag(matching.least_squares(x, proper, **options)).max() < 1e-18
    assert (np.diag(matching.least_squares(x, mirrored, **options)).max() < 1e-18) == reflections
    # Particles of different classes are not exchanged.
    other = y.copy()
    other[:, [0, 1]] = other[:, [1, 0]]
    assert np.diag(matching.least_squares(x, other, **options)).min() > 1e-3
    # A distance is the same both ways.
    there, back = matching.least_squares(x, y, **options), matching.least_squares(y, x, **options)
    assert there == pytest.approx(back.T, rel=1e-9, abs=1e-12)


def test_the_least_of_small_configurations_is_found():
    """Against all permutations with the Kabsch rotation of each."""
    rng = np.random.default_rng(5)
    x, y = (rng.normal(size=(8, 4, 3)) for _ in range(2))
    x, y = (part - part.mean(axis=1, keepdims=True) for part in (x, y))
    found = matching.least_squares(x, y, classes=np.zeros(4, np.int64), reflections=True)
    exact = np.empty((8, 8))
    for a, b in itertools.product(range(8), range(8)):
        overlaps = [np.linalg.svd(y[b][list(order)].T @ x[a])[1].sum() for order in itertools.permutations(range(4))]
        exact[a, b] = np.square(x[a]).sum() + np.square(y[b]).sum() - 2.0 * max(overlaps)
    assert (found >= exact - 1e-9).all()
    assert np.mean(found) <= 1.05 * np.mean(exact)
    assert np.mean(found < exact + 1e-9) > 0.8


def test_aligned_distance_does_not_see_rotations_and_permutations():
    rng = np.random.default_rng(6)
    x, y = configurations(rng, 80), configurations(rng, 160)
    turned = np.stack([moved[rng.permutation(4)] for moved in x]) @ haar(rng, 80, 2, determinant=None)
    reference = frames_of(y, np.zeros(160))
    values = [
        scorecard(samples_of(part, np.zeros(80), np.zeros(80)), reference, dw4(), seed=0, progress=False)["aligned_w2"]["raw"]["value"]
        for part in (x, turned)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_pair_distances_of_scaled_configurations():
    """Scaling by 1 + s moves each distance d by s d: W2 is s times the root mean square distance."""
    rng = np.random.default_rng(7)
    from boltzflow.analysis.observables import pair_distances

    d = pair_distances(configurations(rng, 3_000))
    found = pooled.on_line(1.2 * d[:1500], d[1500:])
    truth = 0.2 * float(np.sqrt(np.mean(d**2)))
    assert found.value == pytest.approx(truth, rel=0.03)
    assert found.low <= truth <= found.high
    assert found.high < 1.3 * truth
    assert found.n == 1500


def test_samples_in_chains_have_wider_intervals():
    [(chain, _)] = tool.wasserstein("exact_w2", 0.0, 300, 3, own_rho=0.95)
    assert chain.low == 0.0
    assert chain.value > chain.floor


@pytest.mark.parametrize("kind", ["line_w2", "pooled_w2", "torus_w2", "exact_w2"])
def test_intervals_hold(kind):
    cases = [
        {"shift": 0.0},
        {"shift": 0.5},
        {"shift": 0.0, "width": 1.4},
        {"shift": 0.0, "width": 2.5},
        {"shift": 0.0, "rho": 0.9},
        {"shift": 0.5, "rho": 0.9},
        {"shift": 0.0, "rho": 0.9, "own_rho": 0.9},
    ]
    held = [tool.coverage(lambda seed, c=case: tool.wasserstein(kind, n=200, seed=seed, **c), 5).held for case in cases]
    assert np.mean(held) >= 0.9


def test_intervals_of_aligned_configurations_and_of_trimmed_weights_hold():
    assert np.mean([tool.coverage(lambda seed, r=rho: tool.aligned(200, seed, rho=r), 8).held for rho in (0.0, 0.9)]) >= 0.85
    assert tool.coverage(lambda seed: tool.trimmed_ess(0.7, 1_000, seed), 15).held >= 0.85


def test_trimmed_weights_flatter_and_say_so():
    log_w = np.concatenate([np.zeros(998), [4.0, 5.0]])
    found = trimmed.reverse_ess(log_w)
    assert found.value == pytest.approx(1.0)
    assert "only to compare" in found.note
    assert weights.reverse_ess(log_w).value < 0.1
    # None of fewer than 500 is dropped.
    few = np.random.default_rng(0).normal(size=300)
    assert trimmed.reverse_ess(few).value == pytest.approx(weights.reverse_ess(few).value)
    assert trimmed.forward_ess(few).value == pytest.approx(weights.forward_ess(few).value)
    assert trimmed.reverse_ess(np.full(10, -np.inf)).value == 0.0


class TestTica:
    PAIRS = np.array([[0, 1], [1, 2], [2, 3]])
    NONE = np.zeros((0, 4), np.int64)

    def trajectories(self, count: int, n: int) -> list[np.ndarray]:
        """Four atoms in a row: their distances are a slow chain, a faster one, and noise."""
        found = []
        for seed in range(count):
            rng = np.random.default_rng(seed)
            d = np.concatenate([tool._autoregressive(rng, rho, n, 1) for rho in (0.8, 0.98, 0.0)], axis=1) * [0.3, 0.05, 0.3] + 2.0
            x = np.zeros((n, 4, 3))
            x[:, 1:, 0] = np.cumsum(d, axis=1)
            found.append(x)
        return found

    def test_the_slow_mode_is_found_with_its_time(self) -> None:
        parts = self.trajectories(3, 8_000)
        model = tica.fit(parts, self.NONE, self.PAIRS, lag=5, interval=0.5, fingerprint="row")
        y = model.coordinates(parts[0])
        slow, fast = (np.linalg.norm(parts[0][:, i + 1] - parts[0][:, i], axis=-1) for i in (1, 0))
        assert abs(np.corrcoef(y[:, 0], slow)[0, 1]) > 0.99
        assert abs(np.corrcoef(y[:, 1], fast)[0, 1]) > 0.99
        assert model.timescales == pytest.approx([-0.5 / math.log(0.98), -0.5 / math.log(0.8)], rel=0.2)
        assert model.lag_time == 2.5

    def test_it_is_the_same_after_it_was_stored(self, tmp_path: Path) -> None:
        parts = self.trajectories(1, 500)
        model = tica.fit(parts, np.array([[0, 1, 2, 3]]), self.PAIRS, lag=1, interval=1.0, fingerprint="row")
        model.save(tmp_path / "tica.json")
        assert np.array_equal(tica.load(tmp_path / "tica.json").coordinates(parts[0]), model.coordinates(parts[0]))
        for text in ("{", "[]", json.dumps({"format": "other"}), (tmp_path / "tica.json").read_text().replace('"offset"', '"off"')):
            (tmp_path / "bad.json").write_text(text)
            with pytest.raises(DataError, match="no TICA model"):
                tica.load(tmp_path / "bad.json")
        with pytest.raises(DataError, match="cannot be read"):
            tica.load(tmp_path / "none.json")

    def test_short_trajectories_are_refused(self) -> None:
        with pytest.raises(DataError, match="longer dynamics"):
            tica.fit(self.trajectories(2, 10), self.NONE, self.PAIRS, lag=9, interval=1.0, fingerprint="row")


@pytest.fixture(scope="module")
def target() -> Target:
    return bf.targets.get("alanine-dipeptide")


class TestMolecule:
    def moved(self, target: Target, n: int, scale: float = 0.02, seed: int = 0) -> np.ndarray:
        """Frames that tremble slowly about the minimum."""
        rng = np.random.default_rng(seed)
        assert target.structure is not None
        x = target.structure + scale * tool._autoregressive(rng, 0.9, n, 66).reshape(n, 22, 3)
        return x - x.mean(axis=1, keepdims=True)

    def test_all_figures_of_a_molecule(self, target: Target) -> None:
        x = self.moved(target, 900)
        zeros = np.zeros(300)
        dynamics = frames_of(x, target=target, sampler=SAMPLER, chains=3, interval=1.0)
        reference = frames_of(x[300:], np.zeros(600), target)
        model = slow_modes.fit(dynamics, target)
        # Backbone torsions, and distances of the ten heavy atoms, all of which are alone in their class.
        assert len(model.torsions) == 2
        assert len(model.pairs) == 45
        assert model.lag_time == 10.0
        card = scorecard(samples_of(x[:300], zeros, zeros, target), reference, target, seed=0, dynamics=model, most=100, progress=False)
        for key in ("e_w2", "distance_w2", "t_w2", "tica_w2", "ramachandran_tv"):
            for part in ("raw", "reweighted"):
                assert card[key][part]["low"] == 0.0, key
                assert card[key][part]["value"] is not None, key
        assert "36 x 36 bins" in card["ramachandran_tv"]["raw"]["note"]
        assert card["aligned_w2"]["raw"]["value"] is None
        wide = self.moved(target, 300, 0.06, seed=1)
        far = scorecard(samples_of(wide, zeros, zeros, target), reference, target, seed=0, dynamics=model, most=100, progress=False)
        for key in ("distance_w2", "t_w2", "tica_w2"):
            assert far[key]["raw"]["low"] > 0.0, key
        # Few frames in many bins tell little.
        assert far["ramachandran_tv"]["raw"]["value"] > 1.2 * card["ramachandran_tv"]["raw"]["value"]

    def test_frames_without_order_and_parts_of_them_are_refused(self, target: Target) -> None:
        x = self.moved(target, 200)
        with pytest.raises(DataError, match="molecular dynamics in the order of time, but these are of tempering"):
            slow_modes.fit(frames_of(x, target=target, sampler="tempering HMC"), target)
        whole = frames_of(x, target=target, sampler=SAMPLER, chains=2, interval=1.0)
        with pytest.raises(DataError, match="give the whole file"):
            slow_modes.fit(whole[:50], target)
        with pytest.raises(DataError, match="longer dynamics"):
            slow_modes.fit(whole, target, lag_time=90.0)


def test_what_belongs_to_something_else_is_refused():
    rng = np.random.default_rng(8)
    x, other = configurations(rng, 20), bf.targets.get("lj13")
    drawn, reference = samples_of(x, np.zeros(20), np.zeros(20)), frames_of(x, np.zeros(20))
    with pytest.raises(DataError, match="the frames belong to lennard_jones"):
        scorecard(drawn, dataclasses.replace(reference, fingerprint=other.fingerprint), dw4(), seed=0)
    with pytest.raises(DataError, match="the samples belong to an unknown target"):
        scorecard(dataclasses.replace(drawn, meta={}), reference, dw4(), seed=0)
    with pytest.raises(DataError, match="has no torsions"):
        scorecard(drawn, reference, dw4(), seed=0, dynamics=frames_of(x, sampler=SAMPLER, chains=1, interval=1.0))
    with pytest.raises(DataError, match="the dynamics belongs to other"):
        scorecard(drawn, reference, dw4(), seed=0, dynamics=dataclasses.replace(reference, fingerprint="other"))
    foreign = tica.Tica("other", np.zeros((0, 4), int), np.array([[0, 1]]), np.zeros(2), np.zeros((1, 2)), 1.0, np.ones(2), 9)
    with pytest.raises(DataError, match="the TICA model belongs to other"):
        scorecard(drawn, reference, dw4(), seed=0, dynamics=foreign)
    with unchecked(), pytest.raises(DataError, match=r"shapes \(n, k\) and \(m, k\)"):
        pooled.on_line(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(DataError, match="finite positions"):
        matching.least_squares(np.full((1, 4, 2), np.nan), x, classes=np.zeros(4, np.int64), reflections=True)


def test_it_is_printed_and_in_the_report(tmp_path, capsys):
    entry = {"value": 0.25, "low": 0.0, "high": 0.4, "n": 1000, "floor": 0.14}
    nothing = {"value": None, "low": None, "high": None, "n": 0, "floor": None, "note": "the target has no backbone torsions"}
    figures = {
        "target": "dw4",
        "model": "m",
        "e_w2": {"raw": {**entry, "note": "1 <failed>"}, "reweighted": entry},
        "t_w2": {"raw": nothing},
    }
    output.evaluation(figures)
    printed = capsys.readouterr()
    assert "E-W2 / kT" in printed.out
    assert "0.14" in printed.out
    assert "T-W2" not in printed.out + printed.err
    assert "E-W2 / kT (raw): 1 <failed>." in printed.err
    (tmp_path / "evaluation.json").write_text(json.dumps(figures))
    page = str(report_scorecard.table(contents.read(tmp_path)))
    assert "Scorecard" in page
    assert "0.14" in page
    assert "1 &lt;failed&gt;" in page
    assert "T-W2" not in page
    (tmp_path / "evaluation.json").write_text(json.dumps({"target": "dw4", "e_w2": "damaged", "t_w2": {"raw": 3}}))
    assert not report_scorecard.table(contents.read(tmp_path))


def test_exact_transport_takes_uneven_weights_as_they_are():
    """Two points with weights 3 to 1 against frames at both: a quarter stays, and half of the rest moves."""
    own, other = np.array([[0.0], [1.0]] * 50), np.array([[0.0], [1.0]] * 200)
    log_w = np.log(np.where(own[:, 0] == 0.0, 3.0, 1.0))
    found = transport.in_space(own, other, log_w=log_w, seed=0)
    assert found.seen == pytest.approx(0.5, abs=0.07)
