"""What a model says of a user's frames: closed forms of a flow that is the target, errors of log q, files, refusals."""

import csv
import dataclasses
import json
import math

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import cli, targets
from boltzflow.cli import log_prob as verb
from boltzflow.config import ECNF, EGNN, GaussLegendre, RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.evaluation import Model, load_model
from boltzflow.evaluation.densities import ENDINGS
from boltzflow.flows.build import build_flow

STIFFNESS, N, DIMENSION = 4.0, 4, 2
DEGREES = (N - 1) * DIMENSION
LOG_Z = 0.5 * DEGREES * math.log(2.0 * math.pi / STIFFNESS)


@pytest.fixture(scope="module")
def target() -> targets.Target:
    exact = targets.ExactValues(log_z=LOG_Z, mean_energy=0.5 * DEGREES, entropy=0.5 * DEGREES + LOG_Z)
    return targets.from_function(
        lambda x: 0.5 * STIFFNESS * jnp.sum((x - jnp.mean(x, axis=0)[None]) ** 2), N, DIMENSION, name="springs", exact=exact
    )


def gaussian(target: targets.Target, scale: float) -> Model:
    """A flow that moves nothing: a normal density of this width on the zero-CoM subspace."""
    options = ECNF(network=EGNN(hidden=4, layers=1), solver=GaussLegendre(3))
    flow = build_flow(options, target, scale, key=jax.random.key(0))
    still = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf, flow.network)
    return Model("gaussian", flow.with_network(still), RunConfig("springs", flow=options), target, {})


@pytest.fixture(scope="module")
def frames(target: targets.Target) -> Dataset:
    x = np.random.default_rng(0).normal(size=(4_000, N, DIMENSION)) / math.sqrt(STIFFNESS)
    return Dataset((x - x.mean(axis=1, keepdims=True)).astype(np.float32), target.fingerprint, target.units)


def test_a_flow_that_is_the_target(target, frames):
    found = gaussian(target, 1.0 / math.sqrt(STIFFNESS)).densities(frames, n=2_000, seed=1)
    np.testing.assert_allclose(found.log_weight, LOG_Z, atol=2e-5)
    np.testing.assert_allclose(found.u, 0.5 * STIFFNESS * np.sum(np.float64(frames.positions) ** 2, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.log_q, -found.u - LOG_Z, atol=2e-5)
    figures = found.figures
    assert figures["ess_forward"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert figures["nll"]["low"] < 0.5 * DEGREES + LOG_Z < figures["nll"]["high"]
    assert figures["nll_minus_entropy"]["value"] == pytest.approx(0.0, abs=1e-4)
    assert figures["eubo"]["value"] == pytest.approx(LOG_Z, abs=1e-4)
    # The samples are of the density of the frames.
    assert figures["e_w2"]["raw"]["low"] == 0.0
    assert figures["e_w2"]["raw"]["value"] < 0.25
    assert figures["energies"] == {
        "frames": {"energies": 0, "gradients": 0, "total": 0},
        "sampling": {"energies": 2_000, "gradients": 0, "total": 2_000},
    }


def test_a_flow_that_is_too_wide(target, frames):
    # KL(p||q) of normal densities: d/2 (r² - 1 - ln r²) with r the ratio of the widths.
    ratio = 1.0 / 1.3
    found = gaussian(target, 1.3 / math.sqrt(STIFFNESS)).densities(frames)
    divergence = 0.5 * DEGREES * (ratio**2 - 1.0 - math.log(ratio**2))
    gap = found.figures["nll_minus_entropy"]
    assert gap["low"] < divergence < gap["high"]
    expected = -DEGREES * math.log(1.3 / math.sqrt(STIFFNESS) * math.sqrt(2 * math.pi)) - 0.5 * np.sum(
        np.float64(frames.positions) ** 2, axis=(1, 2)
    ) * STIFFNESS / 1.3**2
    np.testing.assert_allclose(found.log_q, expected, atol=1e-4)
    # Forward ESS of these: 1 / (E_p[w] E_p[1/w]) in closed form.
    b = 1.0 - ratio**2
    forward = (ratio**2 * 1.0) ** (-0.5 * DEGREES) / ((1.0 + b) ** (-0.5 * DEGREES) * (1.0 - b) ** (-0.5 * DEGREES)) * ratio**DEGREES
    ess = found.figures["ess_forward"]
    assert ess["low"] < forward < ess["high"]
    assert found.figures["n"] == 0
    assert "e_w2" not in found.figures


def test_chunks_and_parts_change_nothing(target, frames):
    model = gaussian(target, 0.6)
    few = frames[:37]
    whole = model.densities(few)
    np.testing.assert_array_equal(model.densities(few, chunk=5).log_q, whole.log_q)
    np.testing.assert_allclose(model.log_prob(few.positions), whole.log_q, atol=1e-6)


def test_the_error_of_a_coarse_solver_is_that_of_each_frame():
    model = load_model("dw4")
    square = 1.5 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    noise = 0.1 * np.random.default_rng(0).normal(size=(8, 4, 2))
    frames = Dataset((square + noise - noise.mean(axis=1, keepdims=True)).astype(np.float32), model.target.fingerprint, "reduced")
    coarse = dataclasses.replace(model, flow=dataclasses.replace(model.flow, solver=GaussLegendre(3)))
    found, exact = coarse.densities(frames, checked=8), model.densities(frames, checked=0)
    np.testing.assert_allclose(found.log_q - found.log_q_error, exact.log_q, atol=0.3 * np.abs(found.log_q_error).max())
    assert found.figures["solver_error"]["value"] == pytest.approx(math.sqrt(np.mean(found.log_q_error**2)))
    assert np.isnan(exact.log_q_error).all()
    assert exact.figures["solver_error"] is None


def test_draws_of_the_copies_have_their_error():
    model = load_model("dw4-eacf")
    square = 1.5 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    noise = 0.2 * np.random.default_rng(0).normal(size=(16, 4, 2))
    frames = Dataset((square + noise - noise.mean(axis=1, keepdims=True)).astype(np.float32), model.target.fingerprint, "reduced")
    few, many = model.densities(frames, draws=40), model.densities(frames, draws=2_000, seed=1)
    assert few.figures["marginal_draws"] == 40
    assert (few.log_q_error > 3.0 * many.log_q_error).mean() > 0.8
    z = (few.log_q - many.log_q) / np.hypot(few.log_q_error, many.log_q_error)
    assert np.mean(np.abs(z) < 2.0) >= 0.75
    assert np.abs(z).max() < 6.0
    np.testing.assert_allclose(model.log_prob(frames.positions, draws=40), few.log_q, atol=1e-5)


def test_a_frame_without_energy_costs_itself(target, frames):
    few = dataclasses.replace(frames[:50], energies=np.concatenate([[np.inf], np.ones(49)]))
    found = gaussian(target, 0.5).densities(few)
    assert found.log_weight[0] == -np.inf
    assert np.isfinite(found.log_weight[1:]).all()
    assert found.figures["failed_frames"] == 1
    assert found.figures["nll"]["n"] == 50
    assert found.figures["eubo"]["n"] == 49


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_keep_the_columns(ending, target, frames, tmp_path):
    found = gaussian(target, 0.5).densities(frames[:9])
    path = tmp_path / "new" / f"columns{ending}"
    found.save(path)
    if ending == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    elif ending == ".npz":
        stored = np.load(path)
        kept = {name: stored[name] for name in stored.files if name != "figures"}
        assert json.loads(str(stored["figures"]))["frames"] == 9
    else:
        with h5py.File(path) as file:
            kept = {name: np.asarray(file[name]) for name in file}
            assert json.loads(str(file.attrs["figures"]))["frames"] == 9
    assert list(kept) == sorted(kept) or ending != ".h5"
    assert set(kept) == {"log_q", "log_q_error", "u", "log_weight"}
    for name, column in kept.items():
        np.testing.assert_array_equal(column, getattr(found, name))
    before = path.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        found.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_does_not_apply_is_refused(target, frames, tmp_path):
    model, copies = gaussian(target, 0.5), load_model("dw4-eacf")
    with pytest.raises(ConfigError, match="this flow has none"):
        model.densities(frames[:4], draws=10)
    with pytest.raises(ConfigError, match="this flow has none"):
        model.log_prob(frames[:4].positions, draws=10)
    own = Dataset(frames[:4].positions, copies.target.fingerprint, "reduced")
    with pytest.raises(ConfigError, match="leave `checked` out"):
        copies.densities(own, checked=5)
    with pytest.raises(DataError, match="draws must be at least 1, got 0"):
        copies.densities(own, draws=0)
    with pytest.raises(DataError, match="the data set holds frames of double_well"):
        model.densities(own)
    with pytest.raises(ConfigError, match=r"must end in \.h5 or"):
        model.densities(frames[:4]).save(tmp_path / "columns.txt")


def test_the_verb_knows_the_endings():
    assert verb.ENDINGS == ENDINGS


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    square = 1.75 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    noise = 0.25 * np.random.default_rng(1).normal(size=(40, 4, 2))
    np.savez("mine.npz", positions=square + noise)
    words = ["log-prob", "dw4", "mine.npz", "--allow-virial-mismatch"]
    assert cli.main([*words, "-o", "columns.csv", "-n", "64"]) == 0
    out = capsys.readouterr()
    assert "NLL" in out.out
    assert "E-W2" in out.out
    assert out.out.splitlines()[-1] == "columns.csv"
    assert len((tmp_path / "columns.csv").read_text().splitlines()) == 41
    assert cli.main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == figures["nll"]["n"] == 40
    assert figures["energies"] == {
        "check": {"energies": 0, "gradients": 40, "total": 40},
        "frames": {"energies": 0, "gradients": 0, "total": 0},
        "sampling": None,
    }
    rows = list(csv.DictReader((tmp_path / "columns.csv").read_text().splitlines()))
    assert -np.mean([float(row["log_q"]) for row in rows]) == pytest.approx(figures["nll"]["value"], abs=1e-4)
