"""Frames that do not count alike: read, kept, drawn, averaged and compared by their weights, or refused."""

import dataclasses
import math
import warnings
from typing import Any, cast

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import datasets, targets
from boltzflow.analysis import correlation, weights
from boltzflow.config import EACF, ECNF, EGNN, Adam, DataConfig, GaussLegendre, NoProjection, RunConfig, RunOptions, Stage
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset, virial_check
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.evaluation import Model, slow_modes
from boltzflow.evaluation.densities import densities
from boltzflow.evaluation.frames import mean_over
from boltzflow.flows.build import build_flow
from boltzflow.flows.identity import identity
from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.base import AbstractObjective, Setting
from boltzflow.objectives.flow_matching import FlowMatching
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood
from boltzflow.objectives.path_gradient import PathGradient
from boltzflow.report import contents
from boltzflow.sampling.export import export
from boltzflow.targets import molecule_folder
from boltzflow.training.frames import require_named_frames, scale_of
from boltzflow.training.outcome import periodic_evaluation

N, DIMENSION = 4, 2
DEGREES = (N - 1) * DIMENSION
LOG_Z = 0.5 * DEGREES * math.log(2.0 * math.pi)
# Frames are drawn from softer springs than those of the target, and weighted to them.
SOFT = 0.7


@pytest.fixture(scope="module")
def target() -> targets.Target:
    exact = targets.ExactValues(log_z=LOG_Z, mean_energy=0.5 * DEGREES, entropy=0.5 * DEGREES + LOG_Z)
    return targets.from_function(lambda x: 0.5 * jnp.sum((x - jnp.mean(x, axis=0)[None]) ** 2), N, DIMENSION, name="springs", exact=exact)


def drawn(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames of soft springs and the log-weights that make them those of the target."""
    x = np.random.default_rng(seed).normal(size=(n, N, DIMENSION)) / math.sqrt(SOFT)
    x -= x.mean(axis=1, keepdims=True)
    return x.astype(np.float32), -0.5 * (1.0 - SOFT) * np.sum(x**2, axis=(1, 2)) + 3.0


@pytest.fixture(scope="module")
def data(target: targets.Target) -> Dataset:
    x, log_weight = drawn(6_000)
    return datasets.of(x, target, log_weight=log_weight)


def gaussian(target: targets.Target, scale: float) -> Model:
    """A flow that moves nothing: a normal density of this width on the zero-CoM subspace."""
    options = ECNF(network=EGNN(hidden=4, layers=1), solver=GaussLegendre(3))
    flow = build_flow(options, target, scale, key=jax.random.key(0))
    still = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf, flow.network)
    return Model("gaussian", flow.with_network(still), RunConfig("springs", flow=options), target, {})


class TestReading:
    def test_forms(self, target, tmp_path):
        x, log_weight = drawn(400)
        np.savez(tmp_path / "frames.npz", positions=x, log_weight=log_weight)
        np.savez(tmp_path / "unnamed.npz", x=x, log_weight=log_weight)
        np.save(tmp_path / "frames.npy", x)
        np.save(tmp_path / "weights.npy", log_weight)
        np.savetxt(tmp_path / "weights.txt", log_weight, header="of a metadynamics run")
        for found in (
            datasets.load(tmp_path / "frames.npz", target),
            datasets.load(tmp_path / "unnamed.npz", target),
            datasets.load(tmp_path / "frames.npy", target, log_weight=tmp_path / "weights.npy"),
            datasets.load(tmp_path / "frames.npy", target, log_weight=str(tmp_path / "weights.txt")),
            datasets.load(tmp_path / "frames.npy", target, log_weight=list(log_weight)),
            datasets.of(x, target, log_weight=log_weight),
            datasets.of(datasets.of(x, target, allow_virial_mismatch=True), target, log_weight=log_weight),
        ):
            np.testing.assert_allclose(np.asarray(found.log_weight), log_weight, rtol=1e-12)
        # Up to a constant: all alike is none.
        assert datasets.of(x * math.sqrt(SOFT), target, log_weight=np.full(400, -7.0)).log_weight is None

    def test_kept_with_the_frames(self, data, target, tmp_path):
        data.save(tmp_path / "data.h5")
        found = datasets.load(tmp_path / "data.h5", target)
        np.testing.assert_array_equal(found.log_weight, data.log_weight)
        assert datasets.checked_before(tmp_path / "data.h5", target)
        with h5py.File(tmp_path / "data.h5") as file:
            assert file.attrs["format_version"] == 2
        alike = dataclasses.replace(data, log_weight=None)
        # What was found out with weights says nothing of frames without.
        with pytest.raises(DataError, match="virial check failed"):
            datasets.checked(alike, target)
        alike.save(tmp_path / "alike.h5")
        with h5py.File(tmp_path / "alike.h5") as file:
            assert file.attrs["format_version"] == 1
        part = data[10:20]
        np.testing.assert_array_equal(part.log_weight, data.log_weight[10:20])
        for piece in (*data.split(validation=600, seed=0), data.spread(50)):
            place = [int(np.flatnonzero((data.positions == frame).all(axis=(1, 2)))[0]) for frame in piece.positions[:20]]
            np.testing.assert_array_equal(piece.log_weight[:20], data.log_weight[place])

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ([0.0, np.nan, 1.0], "1 of 3 are NaN or"),
            ([0.0, np.inf, 1.0], r"\+inf, the first at index 1"),
            ([0.0, 1.0], r"must have shape \(3,\)"),
            ([-np.inf] * 3, "no frame of the array of frames has weight"),
            (["a", "b", "c"], "must be numbers"),
        ],
    )
    def test_no_weights(self, values, said, target):
        with pytest.raises(DataError, match=said):
            datasets.of(drawn(3)[0], target, log_weight=values)

    def test_what_seems_to_be_weights_is_not_left_out_in_silence(self, target, tmp_path):
        x, log_weight = drawn(40)
        np.savez(tmp_path / "frames.npz", positions=x, weights=np.exp(log_weight))
        with pytest.raises(DataError, match=r"holds 'weights', which is not read: give the natural logarithms"):
            datasets.load(tmp_path / "frames.npz", target)
        np.savez(tmp_path / "both.npz", positions=x, log_weight=log_weight)
        with pytest.raises(DataError, match="log-weights of its own"):
            datasets.load(tmp_path / "both.npz", target, log_weight=log_weight)
        with pytest.raises(DataError, match="there is no file of log-weights"):
            datasets.of(x, target, log_weight="none.npy")
        (tmp_path / "text.txt").write_text("one\ntwo\n")
        with pytest.raises(DataError, match="cannot be read as log-weights"):
            datasets.of(x, target, log_weight=tmp_path / "text.txt")

    def test_samples_bring_theirs(self, target):
        x, log_weight = drawn(2_000)
        u = 0.5 * np.sum(np.float64(x) ** 2, axis=(1, 2))
        failed = (np.arange(2_000) < 3).astype(int)
        meta = {"fingerprint": target.fingerprint}
        samples = bf.Samples(x, -u - log_weight, u, failed, np.zeros(2_000, int), np.zeros(2_000), meta)
        found = datasets.of(samples, target)
        np.testing.assert_allclose(np.asarray(found.log_weight), log_weight[3:])
        assert "virial check passed" in str(found.provenance["virial_check"])
        other = targets.from_function(lambda x: jnp.sum((x - jnp.mean(x, axis=0)[None]) ** 2), N, DIMENSION, name="others")
        with pytest.raises(DataError, match=r"the samples belong to springs.*but the target is others"):
            datasets.of(samples, other)


def test_what_they_are_worth(data):
    share = np.exp(data.log_weight)
    kish = share.sum() ** 2 / np.sum(share**2)
    assert data.n_effective == pytest.approx(kish)
    assert kish < 0.9 * data.n
    alike = data.equally_weighted(seed=3)
    assert alike.log_weight is None
    assert alike.n == data.n
    assert alike.n_effective == pytest.approx(kish)
    assert alike.spread(100).n_effective == 100
    assert alike.equally_weighted() is alike
    # Each as often as its weight says, rounded up or down.
    times = np.array([np.sum((alike.positions == frame).all(axis=(1, 2))) for frame in data.positions[:200]])
    assert np.all(np.abs(times - data.n * (share / share.sum())[:200]) < 1.0)
    assert np.mean(np.sum(alike.positions**2, axis=(1, 2))) == pytest.approx(DEGREES, rel=0.05)


def test_the_virial_check_respects_them(data, target):
    found = virial_check(data.positions, target, log_weight=data.log_weight)
    assert found.ok
    assert abs(found.value - DEGREES) < 4.0 * found.standard_error
    assert found.worth == pytest.approx(data.n_effective)
    assert "by their weights worth" in found.sentence()
    assert not virial_check(data.positions, target).ok
    # All weight on a few: undecided, however many frames there are.
    few = np.where(np.arange(data.n) < 5, 0.0, -np.inf)
    assert not virial_check(data.positions, target, log_weight=few).judged
    # A clash without weight does no harm.
    broken = data.positions.copy()
    broken[7] = 1e30
    assert virial_check(broken, target, log_weight=np.where(np.arange(data.n) == 7, -np.inf, data.log_weight)).ok


class TestFigures:
    def test_of_a_flow_that_is_the_target(self, data, target):
        found = gaussian(target, 1.0).densities(data, n=200, checked=0, seed=1).figures
        assert found["nll"]["low"] < 0.5 * DEGREES + LOG_Z < found["nll"]["high"]
        assert found["eubo"]["value"] == pytest.approx(LOG_Z, abs=1e-4)
        assert found["ess_forward"]["value"] == pytest.approx(1.0, abs=1e-5)
        assert found["e_w2"]["raw"]["low"] == 0.0
        assert found["frames_worth"] == pytest.approx(data.n_effective)

    def test_of_a_flow_that_is_too_wide(self, data, target):
        found = densities(gaussian(target, 1.3), data, checked=0, seed=0).figures
        ratio = 1.0 / 1.3
        divergence = 0.5 * DEGREES * (ratio**2 - 1.0 - math.log(ratio**2))
        assert found["nll_minus_entropy"]["low"] < divergence < found["nll_minus_entropy"]["high"]
        forward = (1.0 - (1.0 - ratio**2) ** 2) ** (0.5 * DEGREES)
        assert found["ess_forward"]["low"] < forward < found["ess_forward"]["high"]

    @pytest.mark.slow
    def test_an_evaluation(self, data, target):
        found = gaussian(target, 1.3).evaluate(400, frames=data, seed=0)
        assert (
            found["nll_minus_entropy"]["low"] < 0.5 * DEGREES * (1.3**-2 - 1.0 + 2.0 * math.log(1.3)) < found["nll_minus_entropy"]["high"]
        )
        assert found["log_z_bar"]["low"] < LOG_Z < found["log_z_bar"]["high"]

    def test_on_the_way(self, data, target):
        figures, _ = periodic_evaluation(
            gaussian(target, 1.0).flow, dataclasses.replace(target, energy_function=None), data, data.n, seed=0
        )
        assert figures["validation_nll"]["low"] < 0.5 * DEGREES + LOG_Z < figures["validation_nll"]["high"]

    def test_tools_that_take_all_alike_refuse(self, data, target):
        model = gaussian(target, 1.0)
        x, _ = drawn(4)
        zero = np.zeros(4)
        meta = {"fingerprint": target.fingerprint, **identity(model.flow)}
        samples = bf.Samples(x, zero, zero, np.zeros(4, int), np.zeros(4, int), zero, meta)
        with pytest.raises(DataError, match=r"Bennett's ratio takes all alike; draw such that do: data\.equally_weighted"):
            model.bar(samples, data)
        molecule = dataclasses.replace(target, elements=("C",) * N, dimension=3)
        moved = dataclasses.replace(data, fingerprint=molecule.fingerprint)
        with pytest.raises(DataError, match="this dynamics is weighted"):
            slow_modes.fit(moved, molecule)


def chain(n: int, memory: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary normal chain of variance 1, correlated over so many steps."""
    keep = math.exp(-1.0 / memory)
    values = rng.standard_normal(n)
    values[1:] *= math.sqrt(1.0 - keep**2)
    for i in range(1, n):
        values[i] += keep * values[i - 1]
    return values


@pytest.mark.parametrize("memory", [0.01, 10.0])
def test_intervals_of_weighted_means_cover(memory):
    # Chains of N(0, 1), weighted to N(0.5, 1): the mean is 0.5.
    rng, held, repeats = np.random.default_rng(5), 0, 120
    for repeat in range(repeats):
        values = chain(1_500, memory, rng)
        found = mean_over(values, 0.5 * values, worth=None, seed=repeat)
        held += found.low <= 0.5 <= found.high
        assert (found.n_effective is None) == (memory < 1.0) or repeat
    assert held / repeats > 0.88


def test_a_weighted_mean_without_correlation_is_as_it_was():
    rng = np.random.default_rng(0)
    log_w, values = 0.3 * rng.standard_normal(500), rng.standard_normal(500)
    alone = weights.expectation(log_w, values, seed=2)
    independent = correlation.Correlation(500, 500.0, None)
    assert weights.expectation(log_w, values, seed=2, correlation=independent) == alone


class TestTraining:
    def shares(self, objective: Any, flow: Any, target: targets.Target, log_weight: np.ndarray | None) -> np.ndarray:
        """How often each frame is proposed; frame i is a square of size 1 + i."""
        square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32)
        frames = (1.0 + np.arange(5, dtype=np.float32))[:, None, None] * square
        bound = objective.bound(Setting(flow, target, 256, 3, log_weight=log_weight))
        counts = np.zeros(5)
        for step in range(8):
            batch = bound.propose((), None, frames, step=step, key=None).batch
            sizes = np.sqrt(np.sum(np.asarray(batch.data, np.float64) ** 2, axis=(1, 2)) / 8.0)
            counts += np.bincount(np.round(sizes - 1.0).astype(int), minlength=5)
        return counts

    @pytest.mark.parametrize(
        "objective",
        [
            FlowMatching(),
            FlowMatching(pairing=cast(Any, "optimal-transport")),
            MaximumLikelihood(),
            PathGradient(),
            AugmentedLikelihood(),
            AugmentedPathGradient(),
        ],
        ids=lambda objective: objective.variant,
    )
    def test_batches_are_drawn_by_weight(self, objective, target):
        augmented = "augmented" in objective.variant
        options = EACF(NoProjection(), blocks=1) if augmented else ECNF(network=EGNN(hidden=4, layers=1), solver=GaussLegendre(3))
        flow = build_flow(options, target, 1.0, key=jax.random.key(0))
        share = np.array([0.1, 0.4, 0.0, 0.3, 0.2])
        with np.errstate(divide="ignore"):
            counts = self.shares(objective, flow, target, np.log(share) + 50.0)
        assert counts[2] == 0
        chi_square = np.sum((counts - 2048 * share)[share > 0] ** 2 / (2048 * share[share > 0]))
        # Four degrees of freedom, one in a thousand: 16.3 of three.
        assert chi_square < 16.3
        alike = self.shares(objective, flow, target, None)
        assert np.sum((alike - 2048 / 5) ** 2 / (2048 / 5)) < 18.5

    def test_unweighted_batches_are_what_they_were(self, target):
        setting = Setting(gaussian(target, 1.0).flow, target, 16, 3)
        frames = np.random.default_rng(0).normal(size=(50, N, DIMENSION)).astype(np.float32)
        expected = frames[setting.rng(0, 5).integers(50, size=16)]
        np.testing.assert_array_equal(setting.drawn(setting.rng(0, 5), frames), expected)

    def test_an_objective_that_takes_all_alike_is_refused(self, data, target, tmp_path, monkeypatch):
        # What objectives of users say as long as they say nothing.
        assert not AbstractObjective.weighted
        monkeypatch.setattr(FlowMatching, "weighted", False)
        with pytest.raises(ConfigError, match=r"the frames are weighted, and the objective flow-matching takes all frames alike"):
            bf.fit(target, data, stages=[Stage(steps=1, batch_size=8, microbatch=8)], out=tmp_path / "run")
        # The folder is free for better frames.
        assert not (tmp_path / "run" / "data.h5").exists()
        FlowMatching().bound(Setting(gaussian(target, 1.0).flow, target, 8))

    def test_a_run_keeps_them(self, data, target, tmp_path):
        few = data[:200]
        options: dict[str, Any] = {
            "flow": ECNF(network=EGNN(hidden=4, layers=1), solver=GaussLegendre(2)),
            "stages": [Stage(steps=2, batch_size=8, microbatch=8, optimiser=Adam(warmup_steps=0))],
            "options": RunOptions(log_every=1),
            "validation": 40,
            "out": tmp_path / "run",
            "progress": False,
        }
        run = bf.fit(target, few, **options)
        assert run.data is not None
        np.testing.assert_array_equal(run.data.log_weight, few.log_weight)
        shown = contents.read(tmp_path / "run")
        assert any("weighted; as many frames are shown" in note for note in shown.notes)
        # The same frames with other weights are another run.
        with pytest.raises(RunError, match="have other weights than those that the run"):
            bf.fit(target, dataclasses.replace(few, log_weight=np.asarray(few.log_weight) + 1e-3 * np.arange(200)), **options, resume=True)

    def test_a_file_of_other_weights_is_no_file_of_the_run(self, data, target, tmp_path):
        few = data[:200]
        np.savez(tmp_path / "frames.npz", positions=few.positions, log_weight=few.log_weight)
        config = RunConfig("springs", data=DataConfig(path=str(tmp_path / "frames.npz")))
        datasets.load(tmp_path / "frames.npz", target).save(tmp_path / "data.h5")
        require_named_frames(config, tmp_path, target)
        np.savez(tmp_path / "frames.npz", positions=few.positions, log_weight=np.asarray(few.log_weight)[::-1])
        with pytest.raises(RunError, match="have other weights"):
            require_named_frames(config, tmp_path, target)

    def test_the_scale_is_that_of_the_weighted_frames(self, data, target):
        config = RunConfig("springs")
        nm = dataclasses.replace(target, units="nm")
        alone = scale_of(config, nm, dataclasses.replace(data, log_weight=None))
        assert alone == pytest.approx(math.sqrt(DEGREES / (N * DIMENSION) / SOFT), rel=0.02)
        assert scale_of(config, nm, data) == pytest.approx(math.sqrt(DEGREES / (N * DIMENSION)), rel=0.02)

    def test_the_option(self, tmp_path):
        config = RunConfig("springs", data=DataConfig(log_weight="weights.npy"))
        with pytest.raises(ConfigError, match=r"data\.log_weight would have no effect: data\.path names no file of frames"):
            config_io.checked(config, strict=True)

    @pytest.mark.slow
    def test_a_flow_learns_the_weighted_density(self, target, tmp_path):
        # Half of the frames are ten times too large, and have no weight to speak of.
        x, _ = drawn(4_000)
        x = (x * math.sqrt(SOFT)).astype(np.float32)
        large = np.arange(4_000) % 2 == 0
        mixed = np.where(large[:, None, None], 3.0 * x, x)
        data = datasets.of(mixed, target, log_weight=np.where(large, -12.0, 0.0))
        stage = Stage(FlowMatching(), steps=600, batch_size=128, microbatch=128)
        run = bf.fit(target, data, stages=[stage], out=tmp_path / "run", validation=100, progress=False)
        samples = run.sample(2_000, seed=0)
        assert np.mean(np.sum(np.float64(samples.positions) ** 2, axis=(1, 2))) == pytest.approx(DEGREES, rel=0.1)
        assert samples.ess().value > 0.9


class TestFiles:
    def test_extended_xyz_and_hdf5_of_our_own_come_back(self, tmp_path):
        pytest.importorskip("ase")
        pytest.importorskip("mdtraj")
        molecule = targets.get("alanine-dipeptide")
        rng = np.random.default_rng(0)
        frames = molecule.structure + 0.004 * rng.standard_normal((8, molecule.n_particles, 3))
        log_weight = rng.standard_normal(8)
        texts = molecule_folder.texts(molecule)
        data = Dataset(frames.astype(np.float32), molecule.fingerprint, "nm", **texts, log_weight=log_weight)
        for ending in (".extxyz", ".h5"):
            path = tmp_path / f"frames{ending}"
            export(data, path)
            found = datasets.frames_in(path, molecule)
            np.testing.assert_allclose(np.asarray(found.log_weight), log_weight, atol=1e-6)
            np.testing.assert_allclose(found.positions, frames - frames.mean(axis=1, keepdims=True), atol=1e-5)
            assert found.provenance["order"] == "time"
        text = (tmp_path / "frames.extxyz").read_text()
        (tmp_path / "some.extxyz").write_text(text.replace(" log_weight=", " other=", 1))
        with pytest.raises(DataError, match="1 of 8 frames have no log_weight, the first at index 0"):
            datasets.frames_in(tmp_path / "some.extxyz", molecule)
        (tmp_path / "plain.extxyz").write_text(text.replace(" log_weight=", " weight="))
        with pytest.raises(DataError, match="holds 'weight', which is not read"):
            datasets.frames_in(tmp_path / "plain.extxyz", molecule)
        # Frames that count alike, drawn by weight.
        assert export(data, tmp_path / "alike.extxyz", resampled=True, n=50) == 50
        assert "log_weight" not in (tmp_path / "alike.extxyz").read_text()


class TestTrajectories:
    def series(self, n: int, memory: float) -> Dataset:
        """A trajectory whose size is correlated over so many frames; its energy, too."""
        size = 1.0 + 0.1 * chain(n, memory, np.random.default_rng(1))
        square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        provenance = {"order": "time", "ess_size": n / correlation.inefficiency(size)}
        # Energies tell the place.
        return Dataset((size[:, None, None] * square).astype(np.float32), "any", "reduced", provenance, energies=np.arange(float(n)))

    @pytest.mark.parametrize(("n", "memory", "validation"), [(5_000, 20.0, 800), (5_000, 0.01, 500), (40, 5.0, 10), (3, 1.0, 1)])
    def test_neighbours_are_never_on_both_sides(self, n, memory, validation):
        data = self.series(n, memory)
        training, held = data.split(validation=validation, seed=4)
        assert training.energies is not None
        assert held.energies is not None
        first, second = training.energies, held.energies
        assert len(second) == validation
        assert training.n >= 1
        apart = np.abs(first[:, None] - second[None]).min()
        wanted = math.ceil(n / data.n_effective) if data.n_effective else 1
        assert apart > min(wanted, 1 if n < 100 else wanted) or n == 3
        left_out = int(training.provenance.get("left_out_between", 0))
        assert training.n + held.n + left_out == n
        # Little is lost.
        assert left_out <= 0.45 * n

    def test_frames_in_another_order_are_split_as_ever(self):
        data = dataclasses.replace(self.series(400, 5.0), provenance={})
        training, held = data.split(validation=80, seed=1)
        assert training.n + held.n == 400


def test_no_warnings_of_numbers(data, target):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        densities(gaussian(target, 1.0), data, checked=0)
        data._repr_html_()
