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
from boltzflow.config import EACF, ECNF, EGNN, GaussLegendre, NoProjection, RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.evaluation import Model
from boltzflow.evaluation.densities import ENDINGS, densities
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
    x = np.random.default_rng(0).normal(size=(3_000, N, DIMENSION)) / math.sqrt(STIFFNESS)
    return Dataset((x - x.mean(axis=1, keepdims=True)).astype(np.float32), target.fingerprint, target.units)


def test_a_flow_that_is_the_target(target, frames):
    found = gaussian(target, 1.0 / math.sqrt(STIFFNESS)).densities(frames, n=200, checked=0, seed=1)
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
    assert figures["e_w2"]["raw"]["value"] < 0.5
    assert figures["energies"] == {
        "frames": {"energies": 0, "gradients": 0, "total": 0},
        "sampling": {"energies": 200, "gradients": 0, "total": 200},
    }


def test_a_flow_that_is_too_wide(target, frames):
    # KL(p||q) of normal densities: d/2 (r² - 1 - ln r²) with r the ratio of the widths.
    ratio = 1.0 / 1.3
    found = gaussian(target, 1.3 / math.sqrt(STIFFNESS)).densities(frames, checked=0)
    divergence = 0.5 * DEGREES * (ratio**2 - 1.0 - math.log(ratio**2))
    gap = found.figures["nll_minus_entropy"]
    assert gap["low"] < divergence < gap["high"]
    expected = (
        -DEGREES * math.log(1.3 / math.sqrt(STIFFNESS) * math.sqrt(2 * math.pi))
        - 0.5 * np.sum(np.float64(frames.positions) ** 2, axis=(1, 2)) * STIFFNESS / 1.3**2
    )
    np.testing.assert_allclose(found.log_q, expected, atol=1e-4)
    # 1 / (E_p[w] E_p[1/w]) of weights that are exponentials of squares.
    forward = (1.0 - (1.0 - ratio**2) ** 2) ** (0.5 * DEGREES)
    ess = found.figures["ess_forward"]
    assert ess["low"] < forward < ess["high"]
    assert found.figures["n"] == 0
    assert "e_w2" not in found.figures


def test_chunks_and_parts_change_nothing(target, frames):
    model = gaussian(target, 0.5)
    few = frames[:9]
    whole = densities(model, few, checked=0)
    np.testing.assert_array_equal(densities(model, few, chunk=4, checked=0).log_q, whole.log_q)
    np.testing.assert_allclose(model.log_prob(few.positions), whole.log_q, atol=1e-6)


def test_the_error_of_a_coarse_solver_is_that_of_each_frame(target, frames):
    model = gaussian(target, 0.5)
    rng = np.random.default_rng(0)
    moving = jax.tree.map(lambda a: a + rng.standard_normal(a.shape).astype(a.dtype) if eqx.is_inexact_array(a) else a, model.flow.network)
    flow = dataclasses.replace(model.flow.with_network(moving), solver=GaussLegendre(2))
    finer = flow.finer()
    assert finer is not None
    coarse, exact = (dataclasses.replace(model, flow=part) for part in (flow, finer))
    found = densities(coarse, frames[:9], checked=9)
    np.testing.assert_allclose(found.log_q - found.log_q_error, densities(exact, frames[:9], checked=0).log_q, atol=1e-5)
    assert found.figures["solver_error"]["value"] == pytest.approx(math.sqrt(np.mean(found.log_q_error**2)))
    assert found.figures["solver_error"]["value"] > 1e-4


@pytest.fixture(scope="module")
def copies(target: targets.Target) -> Model:
    """A small augmented flow, off its first weights."""
    options = EACF(NoProjection(), blocks=1)
    flow, rng = build_flow(options, target, 0.6, key=jax.random.key(0)), np.random.default_rng(1)
    moved = jax.tree.map(lambda a: a + 0.004 * rng.standard_normal(a.shape).astype(a.dtype) if eqx.is_inexact_array(a) else a, flow.network)
    return Model("copies", flow.with_network(moved), RunConfig("springs", flow=options), target, {})


def test_draws_of_the_copies_have_their_error(copies, frames):
    few, many = densities(copies, frames[:16], draws=8), densities(copies, frames[:16], draws=256, seed=1)
    assert few.figures["marginal_draws"] == 8
    assert 0.05 < few.figures["ess_of_draws"]["value"] < 0.999
    assert np.median(few.log_q_error / many.log_q_error) == pytest.approx(math.sqrt(32.0), rel=0.5)
    z = (few.log_q - many.log_q) / np.hypot(few.log_q_error, many.log_q_error)
    assert np.mean(np.abs(z) < 2.0) >= 0.7
    assert np.abs(z).max() < 10.0


def test_a_frame_without_energy_costs_itself(target, frames):
    few = dataclasses.replace(frames[:9], energies=np.concatenate([[np.inf], np.ones(8)]))
    found = densities(gaussian(target, 0.5), few, checked=0)
    assert found.log_weight[0] == -np.inf
    assert np.isfinite(found.log_weight[1:]).all()
    assert found.figures["failed_frames"] == 1
    assert found.figures["nll"]["n"] == 9
    assert found.figures["eubo"]["n"] == 8


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_keep_the_columns(ending, target, frames, tmp_path):
    found = densities(gaussian(target, 0.5), frames[:9], checked=0)
    path = tmp_path / "new" / f"columns{ending}"
    found.save(path)
    if ending == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = {str(name): np.array([float(row[name]) for row in rows]) for name in rows[0]}
    elif ending == ".npz":
        with np.load(path) as stored:
            kept = {name: stored[name] for name in stored.files if name != "figures"}
            assert json.loads(str(stored["figures"]))["frames"] == 9
    else:
        with h5py.File(path) as file:
            kept = {name: np.asarray(file[name]) for name in file}
            assert json.loads(str(file.attrs["figures"]))["frames"] == 9
    assert set(kept) == {"log_q", "log_q_error", "u", "log_weight"}
    for name, column in kept.items():
        np.testing.assert_array_equal(column, getattr(found, str(name)))
    before = path.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        found.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_does_not_apply_is_refused(target, copies, frames, tmp_path):
    model = gaussian(target, 0.5)
    with pytest.raises(ConfigError, match="this flow has none"):
        densities(model, frames[:4], draws=10)
    with pytest.raises(ConfigError, match="this flow has none"):
        model.log_prob(frames[:4].positions, draws=10)
    own = frames[:4]
    with pytest.raises(ConfigError, match="leave `checked` out"):
        densities(copies, own, checked=5)
    with pytest.raises(DataError, match="draws must be at least 1, got 0"):
        densities(copies, own, draws=0)
    with pytest.raises(DataError, match="the data set holds frames of others"):
        model.densities(dataclasses.replace(own, fingerprint="others"))
    with pytest.raises(ConfigError, match=r"must end in \.h5 or"):
        densities(model, frames[:9], checked=0).save(tmp_path / "columns.txt")


def test_the_verb_knows_the_endings():
    assert verb.ENDINGS == ENDINGS


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    square = 1.75 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    noise = 0.25 * np.random.default_rng(1).normal(size=(40, 4, 2))
    np.savez("mine.npz", positions=square + noise)
    words = ["log-prob", "dw4", "mine.npz", "--allow-virial-mismatch", "--checked", "0"]
    assert cli.main([*words, "-o", "columns.csv"]) == 0
    out = capsys.readouterr()
    assert "NLL" in out.out
    assert "Virial check" in out.err
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
