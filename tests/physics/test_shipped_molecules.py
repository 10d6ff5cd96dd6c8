"""The shipped models of alanine dipeptide against reference figures of the target."""

import numpy as np
import pytest

from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.chemistry.chirality import chirality_signs
from boltzflow.models import load_model
from boltzflow.sampling.generate import generate

# Means of two runs of the tempering sampler and log Z of 50 000 samples (docs/results.md).
MEAN_ENERGY, LOG_Z = -23.79, -193.5


@pytest.mark.parametrize(("name", "n"), [("alanine-dipeptide-eacf", 256), pytest.param("alanine-dipeptide", 512, marks=pytest.mark.slow)])
def test_samples_reweight_to_the_target(name, n):
    model = load_model(name)
    samples = generate(model.flow, model.target, n, seed=0)
    assert (chirality_signs(samples.positions, model.target.chiral_centres) > 0).all()
    assert samples.ess().value > 0.05
    assert samples.log_z().value == pytest.approx(LOG_Z, abs=0.3)
    mean = samples.expectation(samples.u)
    assert mean.low - 1.0 < MEAN_ENERGY < mean.high + 1.0
    residue = backbones(model.target.topology)[0]
    phi = torsions(samples.positions, np.array([residue.phi]))[:, 0]
    # 2.1 % of the density are at positive phi.
    assert 0.003 < np.mean(phi > 0) < 0.06
