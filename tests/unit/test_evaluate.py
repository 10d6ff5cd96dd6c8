"""The evaluation of a model."""

import dataclasses

import numpy as np
import pytest

from boltzflow.cli import output
from boltzflow.config import RK4, Dopri5, Exact, GaussLegendre, Hutchinson
from boltzflow.datasets import Dataset
from boltzflow.evaluation.figures import evaluate
from boltzflow.models.model import Model
from boltzflow.models.storage import load_model


@pytest.fixture(scope="module")
def dw4() -> Model:
    return load_model("dw4")


def frames_of(model: Model) -> Dataset:
    # Squares: any frames do where the solver is looked at.
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32) * 1.5
    noise = 0.1 * np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float32)
    return Dataset(square + noise - noise.mean(axis=1, keepdims=True), model.target.fingerprint, model.target.units)


@pytest.mark.parametrize(("solver", "low", "high"), [pytest.param(None, 0.0, 0.02, marks=pytest.mark.slow), (GaussLegendre(3), 0.1, 10.0)])
def test_a_solver_that_is_too_coarse_is_told(dw4, solver, low, high, capsys):
    flow = dw4.flow if solver is None else dataclasses.replace(dw4.flow, solver=solver)
    figures = evaluate(dataclasses.replace(dw4, flow=flow), 32, seed=0, frames=frames_of(dw4))
    assert low <= figures["solver_error"]["value"] < high
    output.evaluation(figures)
    assert ("raise flow.solver.nodes" in capsys.readouterr().err) == (low > 0.0)


def test_finer_solvers():
    finer = Dopri5(rtol=1e-4, atol=1e-5, max_steps=100, divergence=Hutchinson()).finer()
    assert (finer.max_steps, finer.divergence) == (400, Exact())
    assert (finer.rtol, finer.atol) == pytest.approx((1e-5, 1e-6))
    assert RK4(12).finer().steps == GaussLegendre(12, grading=1.5).finer().nodes == 24
    assert GaussLegendre(12, grading=1.5).finer().grading == 1.5
