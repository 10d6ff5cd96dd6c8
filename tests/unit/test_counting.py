"""Evaluations of energies are counted: what is told equals what an energy outside JAX saw."""

import concurrent.futures
import json
from typing import Literal

import jax
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import config, reference, targets
from boltzflow.counting import META, Evaluations
from boltzflow.errors import RunInterrupted
from boltzflow.flows.build import build_flow
from boltzflow.sampling.generate import generate
from boltzflow.sampling.samples import Samples
from boltzflow.targets.calculators import failures, from_calculator


def springs(x: np.ndarray) -> tuple[float, np.ndarray]:
    centred = x - x.mean(axis=0)
    return 0.5 * float(np.sum(centred**2)), centred


@pytest.fixture
def target():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        made = from_calculator(springs, 3, 2, name="springs", executor=threads)
        made.check_energy()
        yield made


def seen(target: bf.Target) -> int:
    return failures(target).evaluated


def test_they_add_up():
    both = Evaluations(3, 4) + Evaluations(10, 20)
    assert both == (13, 24)
    assert both.total == 37
    assert both.as_dict() == {"energies": 13, "gradients": 24, "total": 37}
    assert Evaluations.of_meta(both.as_meta()) == both
    assert Evaluations.of_meta({"seed": 1}) is None
    assert "13 of the energy alone and 24 of the energy with its gradient" in both.sentence()


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 1.7, 3.0)])
def test_reference_sampling_counts_warm_up_and_pilot(target: bf.Target, temperatures: tuple[float, ...]):
    before = seen(target)
    made = reference.sample(target, 20, chains=2, temperatures=temperatures, seed=3)
    spent = Evaluations.of_meta(made.dataset.provenance)
    assert spent is not None
    # The start is asked for once more where the symmetries of an energy are tried.
    assert spent.total == seen(target) - before
    assert spent.gradients > 500
    assert f"{spent.gradients:,} of the energy with its gradient" in made.sentence()


def test_a_resumed_reference_run_counts_the_whole(tmp_path, monkeypatch):
    whole = reference.sample(targets.get("dw4"), 64, seed=1, out=tmp_path / "whole.h5").dataset.provenance

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("boltzflow.reference.sampler.autocorrelation_time", stop)
        with pytest.raises(RunInterrupted, match="continue with resume"):
            reference.sample(targets.get("dw4"), 64, seed=1, out=tmp_path / "part.h5")
    resumed = reference.sample(targets.get("dw4"), 64, seed=1, out=tmp_path / "part.h5", resume=True).dataset.provenance
    assert [resumed[key] for key in META] == [whole[key] for key in META]
    assert int(whole["gradient_evaluations"]) > 10_000


def test_samples_count_theirs_and_keep_the_count(target: bf.Target, tmp_path):
    flow = build_flow(config.ECNF(network=config.EGNN(layers=1, hidden=4)), target, 1.0, key=jax.random.key(0))
    before = seen(target)
    samples = generate(flow, target, 11, seed=0, chunk=4, out=tmp_path / "samples.h5")
    assert seen(target) - before == 11
    assert Evaluations.of_meta(samples.meta) == (11, 0)
    assert Evaluations.of_meta(Samples.load(tmp_path / "samples.h5").meta) == (11, 0)
    generate(flow, target, 20, seed=0, chunk=4, out=tmp_path / "samples.h5", resume=True)
    assert Evaluations.of_meta(Samples.load(tmp_path / "samples.h5").meta) == (20, 0)
    # Parts of one drawing that are joined again are counted once.
    assert Evaluations.of_meta(Samples.concatenate([samples[:5], samples[5:]]).meta) == (11, 0)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_training_counts_and_the_card_tells(target: bf.Target, tmp_path, direction: Literal["reverse", "both"]):
    data = reference.sample(target, 24, chains=2, temperatures=(1.0,), seed=3).dataset
    stage = config.Stage(
        objective=config.PathGradient(direction=direction, nodes=2),
        optimiser=config.Adam(),
        steps=3,
        batch_size=4,
        microbatch=2,
    )
    options = config.RunOptions(evaluate_every=2, evaluate_n=5)
    before = seen(target)
    flow = config.ECNF(network=config.EGNN(layers=1, hidden=4), solver=config.GaussLegendre(nodes=2))
    run = bf.fit(target, data, flow=flow, stages=[stage], options=options, out=tmp_path / "run", validation=4)
    found = run.model.card["energies"]
    size = {"reverse": 4, "both": 8}[direction]
    assert found["training"] == {"energies": 0, "gradients": 3 * size, "total": 3 * size}
    assert found["evaluation"]["energies"] == 5
    made = Evaluations.of_meta(data.provenance)
    assert made is not None
    assert found["reference"] == made.as_dict()
    assert seen(target) - before == 3 * size + 5
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["evaluations"] for line in lines if "loss" in line or "divergence" in line] == [size, 2 * size, 3 * size]
    figures = run.model.evaluate(6, seed=1, frames=data)
    assert figures["energies"]["sampling"]["total"] == 6
    assert figures["energies"]["training"]["gradients"] == 3 * size
