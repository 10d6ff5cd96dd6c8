"""Peptides of all ends, hands and rings: how they are built, and their energies against OpenMM's Reference platform."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.chemistry.force_field import compile_system
from boltzflow.errors import TargetError

pytest.importorskip("openmm")
import openmm as mm  # noqa: E402
from openmm import app  # noqa: E402

from boltzflow.chemistry.openmm_systems import Mechanics  # noqa: E402
from boltzflow.chemistry.peptide_geometry import letters  # noqa: E402
from boltzflow.chemistry.peptides import build_peptide, read_sequence  # noqa: E402
from boltzflow.chemistry.systems import create_system, load_force_field  # noqa: E402

unit: Any = mm.unit  # its units are made when it is imported
FAST = {"xla_backend_optimization_level": 0}
# As published peptides are simulated: amber14 with obc1 and a cut-off of 2 nm.
PUBLISHED = ("amber14-all.xml", "implicit/obc1.xml")
AMBER = ("amber14-all.xml",)
CHARMM = ("charmm36.xml",)


@functools.cache
def system_of(sequence: str, names: tuple[str, ...], caps: Any = "zwitterion", cutoff: float | None = None, **options: Any):
    topology, x = build_peptide(sequence, caps, **options)
    return topology, x, create_system(load_force_field(names), topology, x, names, cutoff)


def named(topology, residue: int) -> dict[str, int]:
    """Atoms of a residue by name."""
    return {atom.name: atom.index for atom in list(topology.residues())[residue].atoms()}


def hand(x: np.ndarray, atoms: dict[str, int], centre: str = "CA", around: tuple[str, ...] = ("N", "C", "CB")) -> float:
    """1 of an L amino acid."""
    a, b, c = (x[atoms[name]] - x[atoms[centre]] for name in around)
    return float(np.sign(np.dot(a, np.cross(b, c))))


def distance(x: np.ndarray, i: int, j: int) -> float:
    return float(np.linalg.norm(x[i] - x[j]))


# Energies.


@pytest.mark.parametrize("sequence", ["AAA", pytest.param("AAAAAA", marks=pytest.mark.slow), "GYDPETGTWG"])
def test_published_peptides_have_the_energies_of_openmm(sequence: str):
    _, built, system = system_of(sequence, PUBLISHED, cutoff=2.0)
    rng = np.random.default_rng(len(sequence))
    minimum = Mechanics(system).minimise(built)
    frames = minimum + np.array([0.0, 0.005, 0.005, 0.02, 0.05])[:, None, None] * rng.standard_normal((5, *minimum.shape))
    # Stretched to twice its length there are pairs beyond the cut-off.
    frames[-1] *= np.array([1.0, 1.0, 2.0])
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    energies, forces = [], []
    for x in frames:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    with jax.enable_x64(True):
        program = jax.jit(jax.vmap(jax.value_and_grad(compile_system(system).energy)), compiler_options=FAST)
        found, gradients = map(np.asarray, program(jnp.asarray(frames)))
    np.testing.assert_allclose(found, energies, rtol=1e-6)
    scale = np.sqrt(np.mean(np.square(forces)))
    assert np.abs(gradients + np.array(forces)).max() < 1e-5 * scale
    beyond = [int((np.linalg.norm(x[:, None] - x[None], axis=-1) > 2.0).sum()) for x in frames]
    assert (beyond[-1] > 0) == (sequence != "AAA")


def test_a_cut_off_is_part_of_the_fingerprint():
    short, far = (targets.peptide("AA", PUBLISHED, 310.0, caps="zwitterion", cutoff=cutoff) for cutoff in (0.4, None))
    assert short.parameters["system"] != far.parameters["system"]
    assert short.name == "peptide_AA_zwitterion"
    assert short.temperature == 310.0
    x = jnp.asarray(short.structure, jnp.float32)[None]
    assert abs(float(short.energies(x)[0] - far.energies(x)[0])) > 1.0


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), "far", unit.Quantity(2.0, unit.picosecond)])
def test_bad_cut_offs(cutoff: Any):
    with pytest.raises(TargetError, match="cut-off must be a positive number of nm|given where one in nanometer"):
        targets.peptide("A", AMBER, cutoff=cutoff)


# Ends.


def test_a_zwitterion():
    topology, x, system = system_of("AAA", AMBER)
    names = [atom.name for atom in topology.atoms()]
    assert names[:6] == ["N", "H", "H2", "H3", "CA", "HA"]  # as OpenMM and published frames have them
    assert names[-3:] == ["C", "O", "OXT"]
    assert len(names) == 33
    target = targets.from_openmm(system, topology, 300.0, positions=x)
    first, last = named(topology, 0), named(topology, 2)
    # The ammonium's hydrogens change places freely. An improper dihedral tells Amber's carboxylate oxygens apart where they are not flat.
    assert len({target.classes[first[name]] for name in ("H", "H2", "H3")}) == 1
    mechanics = Mechanics(system)
    noisy = np.asarray(target.structure) + 0.01 * np.random.default_rng(0).standard_normal(x.shape)
    swapped = noisy.copy()
    swapped[[last["O"], last["OXT"]]] = noisy[[last["OXT"], last["O"]]]
    alike = abs(mechanics.energy(noisy) - mechanics.energy(swapped)) < 1e-6
    assert (target.classes[last["O"]] == target.classes[last["OXT"]]) == alike
    assert len(target.chiral_centres) == 3


def test_neutral_ends():
    topology, x = build_peptide("AP", "neutral")
    first, last = named(topology, 0), named(topology, 1)
    assert {"H", "H2"} < set(first)
    assert "H3" not in first
    assert "HXT" in last
    assert (distance(x, last["OXT"], last["HXT"]), distance(x, last["C"], last["OXT"])) == pytest.approx((0.097, 0.134), abs=0.001)
    # On the side of the other oxygen, as carboxylic acids are.
    assert distance(x, last["HXT"], last["O"]) < 0.26 < distance(x, last["HXT"], last["CA"])
    proline, *_ = build_peptide("PA", "neutral")
    assert [name for name in named(proline, 0) if name in ("H", "H2", "H3")] == ["H2"]


@pytest.mark.slow  # reading CHARMM's force field takes its time
def test_neutral_ends_by_charmm():
    topology, x, system = system_of("AP", CHARMM, "neutral")
    first, last = named(topology, 0), named(topology, 1)
    minimum = Mechanics(system).minimise(x)
    assert distance(minimum, last["HXT"], last["O"]) < 0.26 < distance(minimum, last["HXT"], last["CA"])
    charges = next(force for force in system.getForces() if isinstance(force, mm.NonbondedForce))
    assert sum(charges.getParticleParameters(i)[0]._value for i in range(len(x))) == pytest.approx(0.0, abs=1e-6)
    assert targets.from_openmm(system, topology, 300.0, positions=x).classes[first["H"]] == first["H"]


def test_force_fields_without_neutral_ends_say_so():
    with pytest.raises(TargetError, match=r"amber14-all does not know the neutral ends.*charmm36\.xml.*zwitterion"):
        targets.peptide("AA", AMBER, caps="neutral")
    with pytest.raises(TargetError, match="does not know a ALA that is alone, with both ends free"):
        targets.peptide("A", AMBER, caps="zwitterion")
    with pytest.raises(TargetError, match=r"there are no caps 'ammonium'"):
        targets.peptide("AA", AMBER, caps="ammonium")  # pyright: ignore[reportArgumentType]


def test_the_ph_decides_about_side_chains_and_not_about_ends():
    for sequence, ph, name, there in (
        ("D", 2.0, "HD2", True),
        ("D", 7.0, "HD2", False),
        ("K", 7.0, "HZ3", True),
        ("K", 12.0, "HZ3", False),
    ):
        topology, _ = build_peptide(sequence, "zwitterion", ph=ph)
        atoms = named(topology, 0)
        assert (name in atoms) == there, (sequence, ph)
        assert {"H2", "H3", "OXT"} < set(atoms)


# Hands.


def test_small_letters_are_d():
    assert [(residue.name, residue.left) for residue in read_sequence("AagGp")] == [
        ("ALA", True), ("ALA", False), ("GLY", True), ("GLY", True), ("PRO", False),
    ]  # fmt: skip


@pytest.mark.parametrize("letter", sorted(set(letters()) - {"G"}))
def test_d_amino_acids_are_the_mirror_images(letter: str):
    both = [build_peptide(sequence) for sequence in (letter, letter.lower())]
    for (topology, x), expected in zip(both, (1.0, -1.0), strict=True):
        atoms = named(topology, 1)
        assert hand(x, atoms) == expected
        # The second centre of threonine and isoleucine turns as well: otherwise they would be allo forms.
        second = {"T": ("OG1", "CA", "CG2"), "I": ("CA", "CG1", "CG2")}.get(letter)
        if second is not None:
            assert hand(x, atoms, "CB", second) == (-expected if letter == "T" else expected)
    heavy = [np.array([x[i] for i, atom in enumerate(topology.atoms()) if atom.element.symbol != "H"]) for topology, x in both]
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in heavy]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-6)


def test_a_d_residue_stays_one_and_costs_what_its_mirror_image_costs():
    mirrored = {}
    for sequence, hands in (("AAA", [1, 1, 1]), ("AaA", [1, -1, 1]), ("aaa", [-1, -1, -1])):
        topology, x, system = system_of(sequence, AMBER)
        mechanics = Mechanics(system)
        minimum = mechanics.minimise(x)
        assert [hand(minimum, named(topology, i)) for i in range(3)] == hands
        mirrored[sequence] = mechanics.energy(x), mechanics.energy(-x)
        # The force field itself does not know hands; what the target means does.
        target = targets.from_openmm(system, topology, 300.0, positions=x)
        assert (targets.chirality_signs(np.asarray(target.structure)[None], target.chiral_centres) == 1).all()
        # One system for all three, in which mirror images cost the same.
        first = system_of("AAA", AMBER)
        assert Mechanics(first[2]).energy(x) == pytest.approx(mirrored[sequence][0], rel=1e-12)
        assert mirrored[sequence][0] == pytest.approx(mirrored[sequence][1], rel=1e-9)


def test_the_hands_are_part_of_the_fingerprint():
    one, other = (targets.peptide(sequence, AMBER, caps="zwitterion") for sequence in ("AA", "Aa"))
    assert one.parameters["system"] != other.parameters["system"]
    assert [centre.sign for centre in one.chiral_centres] != [centre.sign for centre in other.chiral_centres]


def test_maps_over_phi_and_psi_are_not_for_d_amino_acids():
    with pytest.raises(TargetError, match=r"maps over phi and psi \(CMAP\) that are made for L amino acids, and 'Aa' has D ones"):
        targets.peptide("Aa", "amber19/protein.ff19SB.xml")


# Rings.


@pytest.mark.parametrize("sequence", ["AAaPG", "AA"])
def test_cyclic_peptides(sequence: str):
    topology, x, system = system_of(sequence, AMBER, "cyclic")
    first, last = named(topology, 0), named(topology, len(sequence) - 1)
    assert {"H2", "H3", "OXT"}.isdisjoint({*first, *last})
    minimum = Mechanics(system).minimise(x)
    assert distance(minimum, last["C"], first["N"]) == pytest.approx(0.134, abs=0.006)
    for i, letter in enumerate(sequence):
        if letter.upper() != "G":
            assert hand(minimum, named(topology, i)) == (1.0 if letter.isupper() else -1.0)
    target = targets.from_openmm(system, topology, 300.0, positions=x)
    assert tuple(sorted((first["N"], last["C"]))) in target.bonds
    assert len(target.chiral_centres) == sum(letter.upper() != "G" for letter in sequence)


@pytest.mark.parametrize(("sequence", "bridges"), [("CGGC", [(1, 4)]), ("ACPGCA", [(5, 2)]), ("CCAGCC", [(1, 6), (2, 5)])])
def test_disulfides(sequence: str, bridges: list[tuple[int, int]]):
    topology, x = build_peptide(sequence, "zwitterion", disulfides=bridges)
    system = create_system(load_force_field(AMBER), topology, x, AMBER)
    minimum = Mechanics(system).minimise(x)
    for i, j in bridges:
        one, other = named(topology, i - 1), named(topology, j - 1)
        assert "HG" not in {*one, *other}
        assert distance(minimum, one["SG"], other["SG"]) == pytest.approx(0.205, abs=0.006)
        assert hand(minimum, one) == hand(minimum, other) == 1.0


def test_a_cyclic_peptide_with_a_bridge_between_caps_of_its_own():
    topology, x = build_peptide("CGPCGP", "cyclic", disulfides=[(1, 4)])
    minimum = Mechanics(create_system(load_force_field(AMBER), topology, x, AMBER)).minimise(x)
    assert distance(minimum, named(topology, 0)["SG"], named(topology, 3)["SG"]) == pytest.approx(0.205, abs=0.006)


@pytest.mark.parametrize(
    ("sequence", "options", "message"),
    [
        ("CAC", {"disulfides": [(1, 2)]}, "residue 2 of 'CAC' is none"),
        ("CAC", {"disulfides": [(0, 3)]}, "residue 0 of 'CAC' is none"),
        ("CAAC", {"disulfides": [(1, 4), (4, 1)]}, "cysteine 4 of 'CAAC' is named twice"),
        ("CAAC", {"disulfides": [(1, 2, 3)]}, "a pair of residue numbers"),
        ("CAAC", {"disulfides": ["14"]}, "a pair of residue numbers"),
        ("A", {"caps": "cyclic"}, "at least two residues"),
        ("A1", {}, "'1' is none of them"),
    ],
)
def test_what_is_no_peptide(sequence: str, options: dict[str, Any], message: str):
    with pytest.raises(TargetError, match=message):
        build_peptide(sequence, **options)


# Configurations and the command line.


def test_a_molecule_in_a_configuration(tmp_path):
    from boltzflow.config import io as config_io
    from boltzflow.training.folder import target_for

    text = """
base: molecule
molecule:
  source: peptide:Aa
  force_field: [amber14-all.xml]
  temperature: 310.0
  cutoff: 2.0
  caps: zwitterion
"""
    config = config_io.loads(text, "mine.yaml")
    config, target = target_for(config, tmp_path)
    assert config.target == target.name == "peptide_Aa_zwitterion"
    assert target.temperature == 310.0
    system = mm.XmlSerializer.deserialize(target.system)
    cutoffs = [force.getCutoffDistance()._value for force in system.getForces() if hasattr(force, "getCutoffDistance")]
    assert cutoffs == [2.0]
    assert config_io.loads(config_io.dump(config), "again").molecule == config.molecule
    # A kept molecule is taken as it was kept, whatever becomes of the source.
    from boltzflow.targets import molecule_folder

    molecule_folder.save(target, tmp_path)
    gone = dataclasses.replace(config, molecule=dataclasses.replace(config.molecule, source="gone.pdb", caps=None))
    assert target_for(gone, tmp_path)[1].fingerprint == target.fingerprint


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("caps: neutral", "molecule.caps would have no effect without molecule.source"),
        ("source: peptide:AA\n  temperature: 300.0", "molecule.force_field of peptide:AA is missing"),
        ("source: peptide:AA\n  force_field: [ff99]", "molecule.temperature of peptide:AA is missing"),
        ("source: a.pdb\n  force_field: [ff99]\n  temperature: 300.0\n  caps: neutral", "molecule.caps is for peptides, and a.pdb is none"),
        (
            "source: AAA\n  force_field: [ff99]\n  temperature: 300.0",
            "molecule.source must be a file .*, or begin with peptide: or smiles:",
        ),
        ("source: peptide:CC\n  force_field: [ff99]\n  temperature: 300.0\n  disulfides: [1/2]", "pairs of residue numbers such as 1-6"),
        ("source: a.psf\n  temperature: 300.0\n  coordinates: a.crd", "molecule.parameters of a.psf is missing"),
    ],
)
def test_what_is_wrong_in_a_configuration(lines: str, sentence: str):
    from boltzflow.config import io as config_io
    from boltzflow.errors import ConfigError

    with pytest.raises(ConfigError, match=sentence):
        config_io.loads(f"base: molecule\nmolecule:\n  {lines}\n", "mine.yaml")


@pytest.mark.parametrize("verb", ["reference", "train"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["peptide:AXA", "--force-field", "ff99", "--temperature", "300"], "'X' is none of them"),
        (["peptide:AA", "--temperature", "300"], "name the force field of peptide:AA, such as --force-field amber14-all.xml"),
        (["peptide:AA", "--force-field", "ff99"], "give the temperature of peptide:AA in kelvin"),
        (
            ["peptide:AA", "--force-field", "ff99", "--temperature", "300", "--caps", "free"],
            "--caps must be one of ace-nme, zwitterion, neutral, cyclic, got 'free'",
        ),
        (["peptide:CC", "--force-field", "ff99", "--temperature", "300", "--disulfides", "1,2"], "--disulfides must be pairs"),
        (["dw4", "--caps", "neutral"], "--caps is for molecules from files such as molecule.pdb, or peptide:AAA, but got 'dw4'"),
        (
            ["x.pdb", "--force-field", "ff99", "--temperature", "300", "--caps", "neutral"],
            "--caps is for peptides, and x.pdb is none of them",
        ),
        (["x.top", "--temperature", "300"], "name the file with the coordinates of x.top, such as --coordinates"),
    ],
)
def test_what_is_wrong_on_the_command_line(verb: str, words: list[str], sentence: str, tmp_path, monkeypatch, capsys):
    from boltzflow.cli import main

    monkeypatch.chdir(tmp_path)
    assert main([verb, *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_peptide_on_the_command_line(tmp_path, monkeypatch):
    from boltzflow import reference
    from boltzflow.cli import main

    found = {}

    def sample(target, n, **options):
        found.update(target=target, out=options["out"])
        raise KeyboardInterrupt

    monkeypatch.setattr(reference, "sample", sample)
    monkeypatch.chdir(tmp_path)
    words = ["--force-field", *AMBER, "--temperature", "310", "--caps", "cyclic", "--cutoff", "2", "--disulfides", "1-4"]
    assert main(["reference", "peptide:CGGCGG", *words]) == 130
    assert found["target"].name == "peptide_CGGCGG_cyclic"
    assert found["out"].name == "peptide_CGGCGG.h5"
    assert found["target"].temperature == 310.0


# Force fields that are not compiled.


def test_polarisable_force_fields():
    with pytest.raises(TargetError, match=r"Amoeba\w+: its force field is polarisable.*pool of worker processes with energies=\"openmm\""):
        targets.peptide("G", "amoeba2018.xml")
    system, topology = mm.System(), app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for _ in range(2):
        system.addParticle(1.0)
        topology.addAtom("H", app.element.hydrogen, residue)
    drude = mm.DrudeForce()
    drude.addParticle(1, 0, -1, -1, -1, -1.0, 0.001, 1.0, 1.0)
    system.addForce(drude)
    for energies in ("compiled", "openmm"):
        with pytest.raises(TargetError, match="Drude particles.*from_calculator, whose pool"):
            targets.from_openmm(system, topology, 300.0, positions=np.eye(2, 3) * 0.1, energies=energies)


@pytest.mark.slow
def test_amoeba_by_the_pool_of_contexts():
    target = targets.peptide("G", "amoeba2018.xml", energies="openmm")
    x = np.asarray(target.structure) + 0.003 * np.random.default_rng(0).standard_normal((3, target.n_particles, 3))
    mechanics = Mechanics(mm.XmlSerializer.deserialize(target.system))
    expected = np.array([mechanics.energy(frame) for frame in x]) / (8.31446261815324e-3 * 300.0)
    np.testing.assert_allclose(np.asarray(target.energies(jnp.asarray(x, jnp.float32))), expected, rtol=1e-5, atol=1e-2)
