"""Starts at which forces are not numbers: a target or a sentence in seconds; and what OpenMM itself refuses, as a sentence."""

import numpy as np
import pytest

from boltzflow import targets
from boltzflow.chemistry.openmm_systems import Mechanics, context
from boltzflow.errors import TargetError

openmm = pytest.importorskip("openmm")
app = pytest.importorskip("openmm.app")

KT = 0.00831446261815324 * 300.0


def molecule(symbols, x, bonds, angles, torsions):
    """A molecule whose harmonic terms are at rest in its own geometry."""
    x = np.asarray(x, np.float64)
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [topology.addAtom(f"{s}{i}", app.Element.getBySymbol(s), residue) for i, s in enumerate(symbols)]
    for atom in atoms:
        system.addParticle(atom.element.mass)
    stretch, bend, twist = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    for i, j in bonds:
        topology.addBond(atoms[i], atoms[j])
        stretch.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 3e5)
    for i, j, k in angles:
        u, v = x[i] - x[j], x[k] - x[j]
        angle = float(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1)))
        # Rounded, so that atoms that are alike have angles that are.
        bend.addAngle(i, j, k, round(angle, 2), 400.0)
    for i, j, k, m, strength in torsions:
        twist.addTorsion(i, j, k, m, 3, 0.0, strength)
    for force in (stretch, bend, twist):
        system.addForce(force)
    return system, topology, x


def turned(x):
    return np.asarray(x) @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


METHYL = [[-0.037, 0.103 * np.cos(a), 0.103 * np.sin(a)] for a in (0, 2.0944, 4.1888)]
MOLECULES = {
    "acetonitrile": (
        "CCNHHH",
        [[0, 0, 0], [0.146, 0, 0], [0.262, 0, 0], *METHYL],
        [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5)],
        [(0, 1, 2), (3, 0, 1), (4, 0, 1), (5, 0, 1), (3, 0, 4), (3, 0, 5), (4, 0, 5)],
        [(h, 0, 1, 2, 0.0) for h in (3, 4, 5)],
    ),
    "acetylene": (
        "HCCH",
        [[-0.106, 0, 0], [0, 0, 0], [0.12, 0, 0], [0.226, 0, 0]],
        [(0, 1), (1, 2), (2, 3)],
        [(0, 1, 2), (1, 2, 3)],
        [(0, 1, 2, 3, 1.0)],
    ),
    "allene": (
        "CCCHHHH",
        [[-0.131, 0, 0], [0, 0, 0], [0.131, 0, 0], [-0.187, 0.093, 0], [-0.187, -0.093, 0], [0.187, 0, 0.093], [0.187, 0, -0.093]],
        [(0, 1), (1, 2), (0, 3), (0, 4), (2, 5), (2, 6)],
        [(0, 1, 2), (3, 0, 1), (4, 0, 1), (5, 2, 1), (6, 2, 1), (3, 0, 4), (5, 2, 6)],
        [(3, 0, 1, 2, 2.0), (0, 1, 2, 5, 2.0)],
    ),
}


@pytest.mark.parametrize("name", MOLECULES)
def test_atoms_in_line_are_minimised(name):
    for geometry in (np.asarray, turned):
        symbols, x, *terms = MOLECULES[name]
        system, _, x = molecule(symbols, geometry(x), *terms)
        mechanics = Mechanics(system)
        # What a torsion over a straight line is worth is up to 2 k where it acts.
        assert mechanics.energy(mechanics.minimise(x)) < 12.0


def test_a_linear_molecule_is_a_target():
    made = []
    for geometry in (np.asarray, turned):
        symbols, x, *terms = MOLECULES["acetonitrile"]
        system, topology, x = molecule(symbols, x, *terms)
        target = targets.from_openmm(system, topology, 300.0, positions=geometry(x), name="acetonitrile")
        assert target.structure is not None
        u, gradient = target.energies_and_gradients(target.structure[None].astype(np.float32))
        assert abs(float(u[0])) < 0.5
        assert np.isfinite(np.asarray(gradient)).all()
        made.append(target)
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].classes == made[1].classes == (0, 1, 2, 3, 3, 3)
    assert made[0].reflections


def test_a_torsion_over_a_straight_line_is_told():
    """It has no angle there, and single precision makes one up."""
    symbols, x, *terms = MOLECULES["allene"]
    system, topology, x = molecule(symbols, x, *terms)
    try:
        target = targets.from_openmm(system, topology, 300.0, positions=x, name="allene")
        assert target.structure is not None
        assert np.isfinite(np.asarray(target.energies(target.structure[None].astype(np.float32)))).all()
    except TargetError as error:
        assert "atoms that lie in line" in str(error)  # noqa: PT017


def two_atoms(force=None, energy=None):
    symbols, x = "CC", [[0, 0, 0], [0.15, 0, 0]]
    system, topology, x = molecule(symbols, x, [(0, 1)], [], [])
    if energy is not None:
        force = openmm.CustomBondForce(energy)
        force.addBond(0, 1, [])
    if force is not None:
        system.addForce(force)
    return system, topology, x


@pytest.mark.parametrize("energy", ["log(r-1)", "-1e9*r^2", "sqrt(0.1-r)"])
def test_no_way_down_is_a_sentence(energy):
    system, topology, x = two_atoms(energy=energy)
    with pytest.raises(TargetError, match=r"cannot be minimised|when the energy is minimised"):
        targets.from_openmm(system, topology, 300.0, positions=x)


def test_refusals_of_openmm_are_sentences():
    for how in ("compiled", "openmm"):
        with pytest.raises(TargetError, match=r"MonteCarloBarostat, which (changes a periodic box|cannot be compiled)"):
            targets.from_openmm(*two_atoms(openmm.MonteCarloBarostat(1.0, 300.0))[:2], 300.0, positions=two_atoms()[2], energies=how)
    system, topology, x = two_atoms(energy="k*r^2")
    with pytest.raises(TargetError, match=r"OpenMM cannot compute the system on its platform Reference \(.*k\)|uses 'k'"):
        targets.from_openmm(system, topology, 300.0, positions=x, energies="openmm")
    with pytest.raises(TargetError, match=r"OpenMM has no platform 'CDUA' here; there are: Reference"):
        context(system, openmm.VerletIntegrator(0.001), "CDUA")
    short = openmm.NonbondedForce()
    with pytest.raises(TargetError, match=r"OpenMM cannot compute the system.*NonbondedForce"):
        targets.from_openmm(*two_atoms(short)[:2], 300.0, positions=x, energies="openmm")


@pytest.mark.parametrize(("energy", "message"), [("5000*(x^2+y^2+z^2)", "moved by 1"), ("50*x", "moved by 1")])
def test_an_energy_anchored_in_space_is_refused(energy, message):
    anchor = openmm.CustomExternalForce(energy)
    for i in range(2):
        anchor.addParticle(i, [])
    system, topology, x = two_atoms(anchor)
    with pytest.raises(TargetError, match="CustomExternalForce, which cannot be compiled"):
        targets.from_openmm(system, topology, 300.0, positions=x)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor, pytest.raises(TargetError, match=message):
        targets.from_openmm(system, topology, 300.0, positions=x, energies="openmm", executor=executor)


def test_a_field_along_an_axis_is_refused():
    """Opposite charges in a uniform field: no translation is felt, each rotation is."""
    field = openmm.CustomExternalForce("30*q*x")
    field.addPerParticleParameter("q")
    for i, q in enumerate((1.0, -1.0)):
        field.addParticle(i, [q])
    system, topology, x = two_atoms(field)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor, pytest.raises(TargetError, match="is rotated"):
        targets.from_openmm(system, topology, 300.0, positions=x, energies="openmm", executor=executor)


def test_maps_of_torsions_know_the_hand():
    """CMAP: a map need not be symmetric, so that mirror images of a molecule without chiral centres, here H-O-O-H, differ in energy."""
    x = [[-0.02, 0.095, 0.0], [0.0, 0.0, 0.0], [0.145, 0.0, 0.0], [0.165, -0.02, 0.093]]
    system, topology, x = molecule("HOOH", x, [(0, 1), (1, 2), (2, 3)], [(0, 1, 2), (1, 2, 3)], [])
    for size_of_odd_part, alike in ((0.0, True), (3.0, False)):
        grid = np.linspace(-np.pi, np.pi, 24, endpoint=False)
        # CMAP's first angle runs fastest; a sum of sines is odd under a reflection.
        values = np.cos(grid)[:, None] + size_of_odd_part * np.sin(grid)[None, :]
        copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
        cmap = openmm.CMAPTorsionForce()
        cmap.addMap(24, values.ravel())
        cmap.addTorsion(0, 0, 1, 2, 3, 3, 2, 1, 0)
        copy.addForce(cmap)
        target = targets.from_openmm(copy, topology, 300.0, positions=x, name="mapped")
        assert target.reflections is alike
