"""Internal coordinates and Ramachandran densities on cases with known answers."""

import numpy as np
import pytest

from boltzflow.analysis import internal_coordinates, ramachandran
from boltzflow.errors import DataError


@pytest.mark.parametrize("angle", [-2.5, -0.3, 0.0, 1.2, 3.0])
def test_a_torsion_is_the_angle_it_was_built_with(angle):
    # Looking along b-c, the far bond is turned clockwise by a positive torsion.
    points = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.5], [np.cos(angle), np.sin(angle), 1.5]])
    assert internal_coordinates.torsions(points, np.array([[0, 1, 2, 3]]))[0] == pytest.approx(angle)
    mirrored = points * [1, -1, 1]
    assert internal_coordinates.torsions(mirrored, np.array([[0, 1, 2, 3]]))[0] == pytest.approx(-angle)


def test_torsions_and_angles_are_those_of_mdtraj():
    mdtraj = pytest.importorskip("mdtraj")
    positions = np.random.default_rng(0).normal(size=(20, 6, 3)).astype(np.float32)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(6):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    trajectory = mdtraj.Trajectory(positions, topology)
    quadruples, triples = np.array([[0, 1, 2, 3], [5, 2, 1, 4]]), np.array([[0, 1, 2], [4, 0, 3]])
    np.testing.assert_allclose(
        internal_coordinates.torsions(positions, quadruples), mdtraj.compute_dihedrals(trajectory, quadruples), atol=1e-4
    )
    np.testing.assert_allclose(internal_coordinates.bond_angles(positions, triples), mdtraj.compute_angles(trajectory, triples), atol=1e-4)


def test_angles_of_bonds_are_all_pairs_at_an_atom():
    found = internal_coordinates.angles_of_bonds([(0, 1), (1, 2), (1, 3), (3, 4)])
    assert {tuple(row) for row in found} == {(0, 1, 2), (0, 1, 3), (2, 1, 3), (1, 3, 4)}


class TestRamachandran:
    def test_the_density_integrates_to_one_and_lies_where_the_samples_are(self):
        density = ramachandran.density([-1.0, -1.0, 2.0], [2.0, 2.0, -3.0], bins=8)
        assert density.sum() * (2 * np.pi / 8) ** 2 == pytest.approx(1.0)
        i, j = np.unravel_index(density.argmax(), density.shape)
        assert -np.pi + i * np.pi / 4 <= -1.0 < -np.pi + (i + 1) * np.pi / 4
        assert -np.pi + j * np.pi / 4 <= 2.0 < -np.pi + (j + 1) * np.pi / 4

    def test_a_known_divergence(self):
        # Two halves of the torus with probabilities 1/2, 1/2 against 1/4, 3/4.
        target, samples = np.array([-1.0] * 500 + [1.0] * 500), np.array([-1.0] * 250 + [1.0] * 750)
        found = ramachandran.divergence(target, np.zeros(1000), samples, np.zeros(1000))
        exact = 0.5 * np.log(2.0) + 0.5 * np.log(2 / 3)
        assert found.seen == pytest.approx(exact, abs=1e-6)
        # The noise of 1 000 samples in two bins is taken off.
        assert exact - 0.005 < found.value < exact
        assert found.low < exact < found.high

    def test_weights_undo_a_bias(self):
        rng = np.random.default_rng(0)
        target = rng.normal(size=(2, 40_000)) * 0.3
        biased = rng.normal(size=(2, 40_000)) * 0.5
        log_w = np.sum(-0.5 * (biased / 0.3) ** 2 + 0.5 * (biased / 0.5) ** 2, axis=0)
        before = ramachandran.divergence(*target, *biased)
        after = ramachandran.divergence(*target, *biased, log_w=log_w)
        # Two normals in the plane: ln 4 (5/3)... = 2 ln(5/3) + 0.36 - 1.
        assert before.value == pytest.approx(2 * np.log(5 / 3) + 0.36 - 1, abs=0.05)
        assert after.value < 0.05

    def test_samples_without_weight_may_have_no_torsions(self):
        kept = ramachandran.density([0.1, np.nan], [0.1, np.nan], log_w=[0.0, -np.inf])
        assert np.isfinite(kept).all()
        with pytest.raises(DataError, match="not finite"):
            ramachandran.density([0.1, np.nan], [0.1, np.nan])
