"""Molecular dynamics against closed forms, on three atoms of which bonds and angle are independent."""

import sys
from pathlib import Path

import numpy as np
import pytest

from boltzflow import datasets, reference, targets
from boltzflow.analysis import internal_coordinates
from boltzflow.errors import DataError, TargetError

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import Recorder

openmm = pytest.importorskip("openmm")
pytest.importorskip("openmm.app")

KT = 0.00831446261815324 * 300.0
LENGTH, STIFFNESS = 0.15, 6000.0
ANGLE, BENDING = 1.9, 60.0


def bent_molecule() -> targets.Target:
    """Three heavy atoms with two harmonic bonds and a harmonic angle, soft and slow enough for steps of 4 fs."""
    system, topology = openmm.System(), openmm.app.Topology()
    residue = topology.addResidue("BNT", topology.addChain())
    atoms = [topology.addAtom(name, openmm.app.Element.getBySymbol(name[0]), residue) for name in ("O1", "S", "C1")]
    for mass in (16.0, 32.0, 12.0):
        system.addParticle(mass)
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for first, second in ((0, 1), (1, 2)):
        bonds.addBond(first, second, LENGTH, STIFFNESS)
        topology.addBond(atoms[first], atoms[second])
    angles.addAngle(0, 1, 2, ANGLE, BENDING)
    system.addForce(bonds)
    system.addForce(angles)
    return targets.from_openmm(system, topology, 300.0, positions=[[LENGTH, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.05, 0.14, 0.0]])


def exact_moments() -> dict[str, float]:
    """By quadrature: lengths follow r² exp(-k (r - r0)² / 2kT), the angle sin(a) exp(-k (a - a0)² / 2kT)."""

    def moments(grid, log_density):
        weights = np.exp(log_density - log_density.max())
        weights /= weights.sum()
        mean = weights @ grid
        return mean, weights @ (grid - mean) ** 2, weights

    r, a = np.linspace(0.02, 0.35, 20_001), np.linspace(1e-3, np.pi - 1e-3, 20_001)
    bond, bending = STIFFNESS * (r - LENGTH) ** 2 / (2 * KT), BENDING * (a - ANGLE) ** 2 / (2 * KT)
    r_mean, r_variance, r_weights = moments(r, 2 * np.log(r) - bond)
    a_mean, a_variance, a_weights = moments(a, np.log(np.sin(a)) - bending)
    energy = 2 * (r_weights @ bond) + a_weights @ bending
    return {"length": r_mean, "length variance": r_variance, "angle": a_mean, "angle variance": a_variance, "energy": energy}


@pytest.fixture(scope="module")
def target() -> targets.Target:
    return bent_molecule()


@pytest.fixture(scope="module")
def result(target) -> reference.ReferenceResult:
    return reference.molecular_dynamics(target, 8000, seed=1, time_step=0.004, interval=0.4, friction=5.0, equilibration=5.0)


def test_moments_are_those_of_the_closed_form(target, result):
    positions = result.dataset.positions.astype(np.float64)
    lengths = internal_coordinates.bond_lengths(positions, np.array([[0, 1], [1, 2]]))
    angle = internal_coordinates.bond_angles(positions, np.array([[0, 1, 2]]))[:, 0]
    exact = exact_moments()
    series = {
        "length": lengths.mean(axis=1),
        "length variance": ((lengths - exact["length"]) ** 2).mean(axis=1),
        "angle": angle,
        "angle variance": (angle - exact["angle"]) ** 2,
        "energy": np.asarray(target.energies(result.dataset.positions), np.float64),
    }
    for name, values in series.items():
        blocks = values.reshape(80, -1).mean(axis=1)
        error = blocks.std() / np.sqrt(79)
        assert abs(blocks.mean() - exact[name]) < 4 * error, name
        assert error < 0.04 * exact[name], name


def test_diagnostics(target, result):
    found = result.diagnostics
    assert found["converged"], result.sentence()
    assert found["virial"]["expected"] == 6
    assert abs(found["virial"]["value"] - 6) < 0.5
    assert abs(found["mean_energy"] - exact_moments()["energy"]) < 4 * found["mean_energy_error"] < 0.2
    assert found["sampled_time"] == pytest.approx(8000 * 0.4)
    assert min(found["ess"].values()) > 2000
    assert "4 chains of molecular dynamics, one frame every 0.4 ps" in result.sentence()
    assert "WARNING" not in result.sentence()


def test_result_is_a_loadable_data_set(target, result, tmp_path):
    result.dataset.save(tmp_path / "frames.h5")
    again = datasets.load(tmp_path / "frames.h5", target)
    assert again.provenance["sampler"] == "Langevin dynamics (openmm)"
    assert again.provenance["chains"] == 4
    assert "openmm" in str(again.provenance["versions"])


def test_frames_are_centred_and_turned_at_random(result):
    positions = result.dataset.positions.astype(np.float64)
    np.testing.assert_allclose(positions.mean(axis=1), 0, atol=1e-6)
    bond = positions[:, 0] - positions[:, 1]
    direction = bond / np.linalg.norm(bond, axis=-1, keepdims=True)
    assert np.abs(direction.mean(axis=0)).max() < 4 / np.sqrt(3 * len(direction))


def test_the_faster_platform_is_taken(target, monkeypatch):
    """CPU where it is clearly faster, Reference where they are near, and the one that was asked for without trying."""
    from boltzflow.reference import dynamics

    settings = dynamics._settings(target, 1.0, 0.001, "Reference")
    for speeds, expected in (
        ((100.0, 500.0), "CPU"),
        ((100.0, 110.0), "Reference"),
        ((500.0, 100.0), "Reference"),
        ((100.0, 0.0), "Reference"),
    ):
        with dynamics._Chains(settings, np.asarray(target.structure), 1, seeds=dynamics._Seeds(seed=0)) as chains:
            answers = iter(speeds)
            monkeypatch.setattr(chains, "_results", lambda futures, answers=answers: [next(answers)])
            assert chains.choose_platform() == expected
    told = Recorder()
    options = {"chains": 1, "platform": "CPU", "time_step": 0.004, "interval": 0.04, "equilibration": 0.4}
    made = reference.molecular_dynamics(target, 16, **options, progress=told)
    assert made.diagnostics["platform"] == "CPU"
    assert "CPU platform" in str(made.dataset.provenance["device"])
    assert {"now": "choosing OpenMM's platform"} not in told.fields


def test_a_trial_counts_steps(target):
    from boltzflow.reference import dynamics
    from boltzflow.reference.dynamics_worker import speed

    settings = dynamics._settings(target, 1.0, 0.001, "Reference")
    assert speed(settings, np.asarray(target.structure), 0.05) > 100
    # A platform that fails is out of the choice.
    assert speed(settings._replace(platform="nonsense"), np.asarray(target.structure), 0.05) == 0


def test_seeds_and_progress(target):
    told = [Recorder() for _ in range(3)]
    recorders = iter(told)

    def frames(seed):
        made = reference.molecular_dynamics(
            target,
            41,
            seed=seed,
            chains=2,
            time_step=0.004,
            interval=0.04,
            equilibration=0.4,
            progress=next(recorders),
        )
        return made.dataset.positions

    first, again, other = frames(0), frames(0), frames(1)
    assert first.shape == (41, 3, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for each in told:
        assert each.done == sorted(each.done)
        assert (each.done[0], each.done[-1], each.fields[-1]) == (0, 100, {"now": "done"})


def test_hand_of_an_l_molecule_is_kept():
    from boltzflow.chemistry.chirality import chirality_signs

    molecule = targets.alanine_dipeptide()
    result = reference.molecular_dynamics(molecule, 32, chains=2, interval=0.02, equilibration=0.2)
    assert (chirality_signs(result.dataset.positions, molecule.chiral_centres) > 0).all()
    assert {"sin_phi_ALA2", "cos_psi_ALA2"} < set(result.diagnostics["ess"])


def test_bad_arguments(target):
    with pytest.raises(DataError, match="must be positive, got 0"):
        reference.molecular_dynamics(target, 0)
    with pytest.raises(DataError, match="chains must be positive"):
        reference.molecular_dynamics(target, 10, chains=0)
    with pytest.raises(DataError, match="friction must be a positive number, got -1"):
        reference.molecular_dynamics(target, 10, friction=-1.0)
    with pytest.raises(DataError, match="equilibration must be"):
        reference.molecular_dynamics(target, 10, equilibration=float("nan"))
    with pytest.raises(DataError, match="shorter than the time step"):
        reference.molecular_dynamics(target, 10, interval=0.0005)
    with pytest.raises(TargetError, match="no platform 'GPU' here; there are: Reference"):
        reference.molecular_dynamics(target, 10, platform="GPU")
    with pytest.raises(TargetError, match="'lennard_jones' has none; use the tempering sampler"):
        reference.molecular_dynamics(targets.get("lj13"), 10)


def test_a_step_that_is_too_long_is_refused(target):
    with pytest.raises(TargetError, match=r"unstable with a time step of 0\.1 ps"):
        reference.molecular_dynamics(target, 20, chains=1, time_step=0.1, interval=10.0, equilibration=0.0)
