"""Hashes of flows, and that figures of different flows are not mixed."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.config import ECNF, EGNN, Dopri5, GaussLegendre, Hutchinson, RunConfig, Solver
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, RunError
from boltzflow.evaluation.figures import evaluate
from boltzflow.flows.build import build_flow
from boltzflow.flows.identity import identity
from boltzflow.models.storage import load_model, precision_of, save_model, weights_of
from boltzflow.report import contents
from boltzflow.sampling.generate import generate

NETWORK = EGNN(layers=1, hidden=8)
CONFIG = RunConfig(target="dw4", flow=ECNF(NETWORK, GaussLegendre(2))).completed()
TARGET = targets.get("dw4")


def flow_of(seed: int = 0, solver: Solver = GaussLegendre(2)):  # noqa: B008 (frozen)
    return build_flow(ECNF(NETWORK, solver), TARGET, 1.0, key=jax.random.key(seed))


def saved(folder: Path, flow, config: RunConfig = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    save_model(folder / "model.safetensors", flow, config, TARGET, {})
    (folder / "config.yaml").write_text(config_io.dump(config))
    return folder


def test_what_changes_samples_changes_the_identity():
    flow = flow_of()
    others = {
        "weights": flow_of(seed=1),
        "scale": dataclasses.replace(flow, scale=1.1),
        "divergence": flow_of(solver=GaussLegendre(2, divergence=Hutchinson())),
        "probes": flow_of(solver=GaussLegendre(2, divergence=Hutchinson(4))),
        "nodes": flow_of(solver=GaussLegendre(3)),
        "method": flow_of(solver=Dopri5()),
        "max_steps": flow_of(solver=Dopri5(max_steps=17)),
    }
    found = {name: identity(other) for name, other in {"itself": flow_of(), **others}.items()}
    assert found["itself"] == identity(flow)
    assert len({entry["identity"] for entry in found.values()}) == 8
    # Settings leave the weights what they are.
    assert len({entry["weights"] for entry in found.values()}) == 3


def test_weights_are_the_same_in_either_precision_and_on_disk(tmp_path):
    folder = saved(tmp_path / "run", flow_of())
    single = identity(load_model(folder).flow)
    with jax.enable_x64(True):
        double = identity(load_model(folder).flow)
        drawn = generate(load_model(folder).flow, TARGET, 3, seed=0)
    assert single["weights"] == double["weights"] == identity(flow_of())["weights"] == weights_of(folder / "model.safetensors")
    assert (single["precision"], double["precision"]) == ("float32", "float64")
    assert single["identity"] != double["identity"]
    # The threads that draw have the precision of who asks.
    assert (drawn.positions.dtype, drawn.meta["precision"]) == (np.float64, "float64")
    assert weights_of(tmp_path / "none.safetensors") is None


def test_a_model_knows_the_precision_of_its_run(tmp_path):
    folder = saved(tmp_path / "run", flow_of(), dataclasses.replace(CONFIG, precision="double"))
    assert (precision_of(folder), precision_of("dw4")) == ("double", "single")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"seed": 1}, "the weights of the flow"),
        ({"solver": GaussLegendre(2, divergence=Hutchinson())}, "the divergence"),
        ({"solver": GaussLegendre(3)}, "solver gauss-legendre, 2 nodes, not"),
    ],
)
def test_sampling_is_resumed_with_the_same_flow_only(tmp_path, other, told):
    path = tmp_path / "s.h5"
    generate(flow_of(), TARGET, 6, seed=0, out=path, model="runs/x")
    with pytest.raises(RunError, match=told):
        generate(flow_of(**other), TARGET, 9, seed=0, out=path, resume=True, model="runs/x")
    resumed = generate(flow_of(), TARGET, 9, seed=0, out=path, resume=True, model="runs/x")
    np.testing.assert_array_equal(resumed.positions, generate(flow_of(), TARGET, 9, seed=0).positions)
    # Fewer than there are.
    assert generate(flow_of(), TARGET, 4, seed=0, out=path, resume=True, model="runs/x").n == 4


def test_evaluation_takes_samples_of_the_model_only(tmp_path):
    model = load_model(saved(tmp_path / "run", flow_of()))
    samples = generate(model.flow, TARGET, 16, seed=0)
    frames = Dataset(samples.positions, TARGET.fingerprint, TARGET.units)
    for meta, told in (
        ({"fingerprint": "something else"}, "samples belong to something else"),
        ({"weights": "0"}, "the weights of the flow"),
        ({"divergence": "hutchinson"}, "the divergence"),
    ):
        with pytest.raises(DataError, match=told):
            evaluate(model, 16, seed=0, frames=frames, samples=dataclasses.replace(samples, meta={**samples.meta, **meta}))
    figures = evaluate(model, 16, seed=0, frames=frames, samples=samples)
    assert {key: figures[key] for key in identity(model.flow)} == identity(model.flow)


def test_the_report_leaves_out_what_is_of_older_weights(tmp_path):
    older, flow = flow_of(seed=1), flow_of()
    folder = saved(tmp_path / "run", older)
    generate(older, TARGET, 5, seed=0, out=folder / "samples.h5")
    (folder / "evaluation.json").write_text(json.dumps({"failed": 0, **identity(older)}))
    before = contents.read(folder)
    assert before.samples is not None
    assert before.evaluation["failed"] == 0
    saved(folder, flow)
    after = contents.read(folder)
    assert after.samples is None
    assert after.evaluation == {}
    assert sum("older weights" in note for note in after.notes) == 2
    (folder / "evaluation.json").write_text(json.dumps({"failed": 0, **identity(flow_of(solver=GaussLegendre(3)))}))
    (folder / "samples.h5").unlink()
    generate(flow, TARGET, 5, seed=0, out=folder / "samples.h5")
    mixed = contents.read(folder)
    assert mixed.samples is not None
    assert any("different settings (solver gauss-legendre, 3 nodes and gauss-legendre, 2 nodes)" in note for note in mixed.notes)
