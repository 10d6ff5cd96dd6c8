"""The reference sampler against closed forms and quadrature."""

import itertools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import datasets, reference, targets
from boltzflow.errors import DataError, RunError, TargetError
from boltzflow.geometry import center_of_mass
from boltzflow.progress import Silent
from boltzflow.reference import journal
from boltzflow.reference.diagnostics import autocorrelation_time, bulk_ess, split_r_hat
from boltzflow.reference.islands import island_count

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import Recorder


def one_dimensional(energy, name: str, *, spread: float = 1.0) -> targets.Target:
    """A target of two different particles on a line: one degree of freedom, y = (x_0 - x_1) / sqrt(2)."""
    return targets.from_function(
        lambda x: energy((x[0, 0] - x[1, 0]) / jnp.sqrt(2.0)),
        2,
        1,
        name=name,
        classes=[0, 1],
        reflections=False,
        start=lambda key: spread * jax.random.uniform(key, (), minval=-1.0, maxval=1.0) * jnp.array([[1.0], [-1.0]]) / jnp.sqrt(2.0),
    )


def coordinate(result: reference.ReferenceResult) -> np.ndarray:
    positions = result.dataset.positions
    return (positions[:, 0, 0] - positions[:, 1, 0]) / np.sqrt(2.0)


# ---- exact values of DW4 -------------------------------------------------------------------------------------------------------


def dw4_log_z(beta: float, spacing: float = 0.12, extent: float = 8.5) -> float:
    """log Z of DW4 on the zero-CoM subspace by quadrature.

    With particles 0 and 1 at distance r on an axis, particles 2 and 3 enter as f(x) (k * f)(x), a convolution in the plane. The
    relative coordinates x_i - x_0 have N^(D/2) = 4 times the volume of the orthonormal ones.
    """
    minimum = -40.0 / 9.0

    def bond(r):
        return np.exp(-beta * (-4 * (r - 4) ** 2 + 0.9 * (r - 4) ** 4 - minimum))

    axis = np.arange(-extent + spacing / 2, extent, spacing)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    shift = np.arange(-(len(axis) - 1), len(axis)) * spacing
    size = 3 * len(axis) - 2
    kernel = np.fft.rfft2(bond(np.hypot(*np.meshgrid(shift, shift, indexing="ij"))), (size, size))
    inside = slice(len(axis) - 1, 2 * len(axis) - 1)
    total = 0.0
    for r in np.arange(spacing / 2, 8.0, spacing):
        field = bond(np.hypot(x - r / 2, y)) * bond(np.hypot(x + r / 2, y))
        smeared = np.fft.irfft2(np.fft.rfft2(field, (size, size)) * kernel, (size, size))[inside, inside]
        total += 2 * np.pi * r * bond(r) * np.sum(field * smeared)
    return float(np.log(total * spacing**5 / 4) - 6 * beta * minimum)


def test_dw4_exact_values():
    exact = targets.get("dw4").exact
    colder, here, hotter = (dw4_log_z(beta) for beta in (1.01, 1.0, 0.99))
    assert exact.log_z == pytest.approx(here, abs=1e-5)
    assert exact.mean_energy == pytest.approx((hotter - colder) / 0.02, abs=1e-3)
    assert exact.entropy == pytest.approx((exact.mean_energy or 0) + (exact.log_z or 0), abs=2e-5)


# ---- the sampler ---------------------------------------------------------------------------------------------------------------


def test_subspace_basis():
    basis = center_of_mass.basis(5).T
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=1), 0, atol=1e-12)


@pytest.fixture(scope="module")
def harmonic():
    """Four particles tethered with different springs to their mean, in 3-D, and 8 000 frames of them."""
    stiffness = np.array([0.5, 1.0, 4.0, 20.0], np.float32)

    def energy(x):
        return 0.5 * jnp.sum(jnp.asarray(stiffness)[:, None] * (x - x.mean(axis=0, keepdims=True)) ** 2)

    target = targets.from_function(energy, 4, 3, name="tethers", classes=[0, 1, 2, 3])
    return target, stiffness, reference.sample(target, 8000, seed=1, temperatures=(1.0, 1.5, 2.2))


def test_harmonic_covariance(harmonic):
    target, stiffness, result = harmonic
    basis = center_of_mass.basis(4).T
    exact = basis.T @ np.linalg.inv(basis @ np.diag(stiffness) @ basis.T) @ basis
    positions = result.dataset.positions.astype(np.float64)
    found = np.einsum("bid,bjd->ij", positions, positions) / (3 * len(positions))
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    # Three axes per frame; the effective number of frames is at least half of the frames.
    assert np.abs((found - exact) / scale).max() < 5 * np.sqrt(2 / (3 * len(positions) / 2))


def test_harmonic_diagnostics(harmonic):
    target, _, result = harmonic
    found = result.diagnostics
    assert result.dataset.positions.shape == (8000, 4, 3)
    assert found["converged"]
    assert max(found["r_hat"].values()) < 1.02
    assert 4000 < min(found["ess"].values())
    assert abs(found["mean_energy"] - target.degrees_of_freedom / 2) < 4 * found["mean_energy_error"] < 0.2
    assert found["virial"]["ok"]
    assert found["virial"]["expected"] == 9
    assert len(found["swap_rates"]) == 2
    assert all(0.2 < rate < 1 for rate in found["swap_rates"])
    assert all(abs(rate - 0.85) < 0.06 for rate in found["acceptance"])
    assert np.all(np.diff(found["step_sizes"]) > 0)
    assert "8000 frames" in result.sentence()
    assert "WARNING" not in result.sentence()


def test_result_is_a_loadable_data_set(harmonic, tmp_path):
    target, _, result = harmonic
    result.dataset.save(tmp_path / "frames.h5")
    again = datasets.load(tmp_path / "frames.h5", target)
    np.testing.assert_allclose(again.positions, result.dataset.positions, atol=1e-5)
    assert again.provenance["seed"] == 1
    assert float(again.provenance["r_hat_energy"]) == result.diagnostics["r_hat"]["energy"]
    assert "blackjax" in str(again.provenance["versions"])


def double_well_line(y):
    return 12.0 * (y**2 - 1.0) ** 2 + 0.7 * y


def test_tempering_weighs_basins_across_a_barrier():
    """12 kT between two basins of different depth: the weights come from swaps alone, and are those of the quadrature."""
    target = one_dimensional(double_well_line, "tilted")
    result = reference.sample(target, 8000, seed=2, temperatures=(1.0, 2.5, 6.0, 14.0), chains=250)
    y = np.linspace(-3, 3, 4001)
    density = np.exp(-double_well_line(y))
    right = density[y > 0].sum() / density.sum()
    # Frames are ordered by chain, and these have 32 each.
    by_chain = (coordinate(result) > 0).astype(float).reshape(250, 32).mean(axis=1)
    error = by_chain.std() / np.sqrt(250)
    assert 0 < right < 0.3
    assert 1 < result.diagnostics["autocorrelation_sweeps"]["radius_of_gyration"] < 100
    assert abs(by_chain.mean() - right) < 4 * error < 0.05


def test_chains_that_do_not_mix_are_reported():
    # Both basins alike in energy but not in size, so that the radius of gyration tells them apart.
    def energy(y):
        return jnp.minimum(400.0 * (y - 0.5) ** 2, 400.0 * (y + 1.5) ** 2)

    result = reference.sample(one_dimensional(energy, "split", spread=2.0), 1024, seed=0, temperatures=(1.0,))
    assert result.diagnostics["r_hat"]["radius_of_gyration"] > reference.R_HAT_LIMIT
    assert not result.diagnostics["converged"]
    assert "WARNING" in result.sentence()


def test_frames_at_most_so_far_apart_are_known_to_be_correlated():
    # Basins of two sizes with a barrier of 8 kT between them, which chains seldom cross.
    target = one_dimensional(lambda y: 8.0 * (y**2 - 1.0) ** 2 + 0.5 * y, "seldom")
    apart = reference.sample(target, 2048, seed=0, temperatures=(1.0,), chains=16)
    close = reference.sample(target, 2048, seed=0, temperatures=(1.0,), chains=16, thin=2)
    assert apart.diagnostics["thin"] > 4
    assert close.diagnostics["thin"] == 2
    assert close.diagnostics["gradient_evaluations"] < apart.diagnostics["gradient_evaluations"]
    assert close.dataset.n_effective is not None
    assert close.dataset.n_effective < 0.35 * close.dataset.n


def test_energies_that_are_not_finite_are_rejected():
    """NaN outside |y| < 1: the frames follow the normal distribution truncated there."""
    target = one_dimensional(lambda y: jnp.where(jnp.abs(y) < 1.0, 0.5 * y**2, jnp.nan), "wall")
    result = reference.sample(target, 4000, seed=0, temperatures=(1.0, 2.0))
    y = coordinate(result)
    assert np.abs(y).max() < 1.0
    # The virial identity has a surface term at the wall, so only the variance is compared: 1 - 2 phi(1) / (2 Phi(1) - 1).
    assert np.var(y) == pytest.approx(0.2911, abs=0.03)


@pytest.fixture(scope="module")
def spring() -> targets.Target:
    return one_dimensional(lambda y: 0.5 * y**2, "spring")


def test_seeds(spring):
    first, again, other = (reference.sample(spring, 301, seed=seed, temperatures=(1.0, 2.0)) for seed in (0, 0, 1))
    assert first.dataset.positions.shape == (301, 2, 1)
    np.testing.assert_array_equal(first.dataset.positions, again.dataset.positions)
    assert not np.array_equal(first.dataset.positions, other.dataset.positions)
    assert len(np.unique(coordinate(first))) > 250


def test_progress_is_told(spring):
    told = Recorder()
    reference.sample(spring, 301, temperatures=(1.0, 2.0), progress=told)
    assert told.pieces == [(100, f"reference frames of {spring.name}")]
    assert told.done == sorted(told.done)
    assert (told.done[0], told.done[-1], told.fields[-1]) == (0, 100, {"now": "done"})


def test_bad_arguments(spring):
    with pytest.raises(DataError, match="must be positive, got 0"):
        reference.sample(spring, 0)
    with pytest.raises(DataError, match="effective number of reference frames must be positive, got 0"):
        reference.sample(spring, effective=0)
    with pytest.raises(DataError, match="say how many reference frames to make"):
        reference.sample(spring)
    with pytest.raises(DataError, match="chains must be positive"):
        reference.sample(spring, 10, chains=0)
    with pytest.raises(DataError, match=r"sweeps between two frames \(thin\) are at least 1, got 0"):
        reference.sample(spring, 10, thin=0)
    for ladder in ((2.0, 3.0), (1.0, 1.0), (1.0, 3.0, 2.0), ()):
        with pytest.raises(DataError, match="ascend from 1"):
            reference.sample(spring, 10, temperatures=ladder)
    broken = targets.Target("broken", 2, 1, lambda x: jnp.sum(x) / 0.0, (0, 0))
    with pytest.raises(TargetError, match="returns inf on a starting configuration"):
        reference.sample(broken, 10)


# ---- the published systems -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dw4_run():
    return reference.sample(targets.get("dw4"), 6000, seed=0)


def test_dw4_mean_energy(dw4_run):
    found = dw4_run.diagnostics
    assert found["converged"], dw4_run.sentence()
    assert abs(found["mean_energy"] - targets.get("dw4").exact.mean_energy) < 4 * found["mean_energy_error"] < 0.15


@pytest.mark.slow
def test_dw4_basins_of_two_seeds_agree(dw4_run):
    """Basins by the number of short pairs (r < 4); frames of the two seeds differ by no more than chance."""
    first, second = np.triu_indices(4, 1)
    shares = []
    runs = [dw4_run, reference.sample(targets.get("dw4"), 6000, seed=1)]
    for result in runs:
        positions = result.dataset.positions
        short = np.sum(np.linalg.norm(positions[:, first] - positions[:, second], axis=-1) < 4.0, axis=1)
        shares.append(np.bincount(short, minlength=7) / len(positions))
    effective = min(min(result.diagnostics["ess"].values()) for result in runs) / 2
    mean = (shares[0] + shares[1]) / 2
    assert np.sum(mean > 0.02) >= 3, "several basins are populated"
    assert np.all(np.abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * mean * (1 - mean) / effective) + 1 / effective)


def test_dw4_orientations_and_labels_are_uniform(dw4_run):
    positions = dw4_run.dataset.positions
    handedness = np.sign(np.linalg.det(positions[:, 1:3] - positions[:, :1]))
    assert abs(handedness.mean()) < 4 / np.sqrt(len(positions))
    for pair in itertools.combinations(range(4), 2):
        distance = np.linalg.norm(positions[:, pair[0]] - positions[:, pair[1]], axis=-1)
        assert distance.mean() == pytest.approx(
            np.linalg.norm(positions[:, 0] - positions[:, 1], axis=-1).mean(), abs=5 * distance.std() / np.sqrt(len(positions) / 2)
        )


@pytest.mark.slow
def test_lj13():
    result = reference.sample(targets.get("lj13"), 20_000, seed=0)
    found = result.diagnostics
    assert found["converged"], result.sentence()
    assert abs(found["mean_energy"] - targets.get("lj13").exact.mean_energy) < 4 * found["mean_energy_error"] < 0.3
    assert min(found["ess"].values()) > 10_000


# ---- diagnostics ---------------------------------------------------------------------------------------------------------------


def autoregressive(rho: float, chains: int, draws: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((chains, draws)) * np.sqrt(1 - rho**2)
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0] / np.sqrt(1 - rho**2)
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return x


def test_diagnostics_of_an_autoregressive_process():
    rho = 0.8
    chains = autoregressive(rho, 64, 2000)
    time = (1 + rho) / (1 - rho)
    assert autocorrelation_time(chains) == pytest.approx(time, rel=0.1)
    assert bulk_ess(chains) == pytest.approx(chains.size / time, rel=0.1)
    assert split_r_hat(chains) == pytest.approx(1.0, abs=0.01)
    assert split_r_hat(chains + np.arange(64)[:, None] / 32) > 1.1
    assert np.isnan(split_r_hat(np.zeros((4, 100))))


def test_islands_share_the_chains_evenly_and_are_smaller_for_larger_systems():
    assert [island_count(256, n) for n in (4, 13, 55, 500)] == [4, 4, 16, 256]
    # Chains that cannot be shared evenly stay together.
    assert [island_count(chains, 55) for chains in (1, 6, 60)] == [1, 1, 4]


class _Killed(Exception):
    """Stands for kill -9 in the middle of a run."""


class _Killer(Silent):
    """Kills the run after so many updates."""

    def __init__(self, allowed: int) -> None:
        self._left = allowed

    def update(self, done: int, **fields: object) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Killed


def test_interrupted_run_goes_on_bit_identically(spring: targets.Target, tmp_path: Path):
    options: dict[str, Any] = {"seed": 3, "temperatures": (1.0, 2.0), "chains": 8}
    whole = reference.sample(spring, 301, **options, out=tmp_path / "whole.h5")
    assert not journal.folder_of(tmp_path / "whole.h5").exists()
    path = tmp_path / "killed.h5"
    kills = 0
    for allowed in (1, 2, 3, 5, 4, 100):
        try:
            result = reference.sample(spring, 301, **options, out=path, resume=True, progress=_Killer(allowed))
        except _Killed:
            kills += 1
            assert not path.exists()
            with pytest.raises(RunError, match="was begun and interrupted; continue it with resume"):
                reference.sample(spring, 301, **options, out=path)
            with pytest.raises(RunError, match="was begun with seed 3, not 4"):
                reference.sample(spring, 301, **{**options, "seed": 4}, out=path, resume=True)
        else:
            break
    assert kills >= 4
    np.testing.assert_array_equal(result.dataset.positions, whole.dataset.positions)
    np.testing.assert_array_equal(datasets.load(path, spring).positions, datasets.load(tmp_path / "whole.h5", spring).positions)
    ignored = ("seconds",)
    assert {k: v for k, v in result.diagnostics.items() if k not in ignored} == {
        k: v for k, v in whole.diagnostics.items() if k not in ignored
    }
    assert not journal.folder_of(path).exists()


def test_two_runs_towards_one_file(spring: targets.Target, tmp_path: Path):
    with journal.opened(tmp_path / "data.h5", {"seed": 0}, resume=False), pytest.raises(RunError, match="another process is making"):
        reference.sample(spring, 301, temperatures=(1.0, 2.0), out=tmp_path / "data.h5", resume=True)


def test_damaged_journal_is_told(tmp_path: Path):
    path = tmp_path / "data.h5"
    with journal.opened(path, {"seed": 0}, resume=False) as steps:
        steps.write({"a": np.arange(3)})
        (journal.folder_of(path) / "000000.npz").write_bytes(b"half a file")
        with pytest.raises(RunError, match="is damaged"):
            steps.read(0)
