"""Molecules from files of GROMACS and CHARMM, and from SMILES: energies against OpenMM's own, and what is refused."""

import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import MissingExtraError, TargetError

pytest.importorskip("openmm")
import openmm as mm  # noqa: E402
from openmm import app  # noqa: E402

unit: Any = mm.unit  # its units are made when it is imported

KT = 8.31446261815324e-3 * 300.0

# Hydrogen peroxide, with parameters of no force field.
TOP = """
[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
OX 8 15.9994 0.0 A 0.31 0.7
HX 1  1.0080 0.0 A 0.05 0.05
[ moleculetype ]
peroxide 3
[ atoms ]
1 HX 1 HOO H1 1  0.4  1.0080
2 OX 1 HOO O1 1 -0.4 15.9994
3 OX 1 HOO O2 1 -0.4 15.9994
4 HX 1 HOO H2 1  0.4  1.0080
[ bonds ]
1 2 1 0.097 460000
2 3 1 0.147 250000
3 4 1 0.097 460000
[ pairs ]
1 4 1
[ angles ]
1 2 3 1 100.0 500
2 3 4 1 100.0 500
[ dihedrals ]
1 2 3 4 9   0.0 5.0 1
1 2 3 4 9 180.0 3.0 2
[ system ]
peroxide
[ molecules ]
peroxide 1
"""
NAMES = ("H1", "O1", "O2", "H2")
# In nm.
X = np.array([[0.016, 0.096, 0.0], [0.0, 0.0, 0.0], [0.147, 0.0, 0.0], [0.163, -0.05, 0.08]])
GRO = "peroxide\n    4\n" + "".join(
    f"    1HOO  {name:>5s}{i:5d}{x[0]:8.3f}{x[1]:8.3f}{x[2]:8.3f}\n" for i, (name, x) in enumerate(zip(NAMES, X, strict=True), start=1)
) + "   3.00000   3.00000   3.00000\n"  # fmt: skip
CRD = "* peroxide\n*\n    4\n" + "".join(
    f"{i:5d}{1:5d} HOO  {name:<4s}{10 * x[0]:10.5f}{10 * x[1]:10.5f}{10 * x[2]:10.5f} MAIN 1      0.00000\n"
    for i, (name, x) in enumerate(zip(NAMES, X, strict=True), start=1)
)
PSF = """PSF

       1 !NTITLE
 REMARKS peroxide

       4 !NATOM
       1 MAIN 1    HOO  H1   HX     0.400000        1.0080           0
       2 MAIN 1    HOO  O1   OX    -0.400000       15.9994           0
       3 MAIN 1    HOO  O2   OX    -0.400000       15.9994           0
       4 MAIN 1    HOO  H2   HX     0.400000        1.0080           0

       3 !NBOND: bonds
       1       2       2       3       3       4

       2 !NTHETA: angles
       1       2       3       2       3       4

       1 !NPHI: dihedrals
       1       2       3       4

       0 !NIMPHI: impropers


       0 !NDON: donors


       0 !NACC: acceptors


       0 !NNB

       0       0       0       0

       1       0 !NGRP
       0       0       0

"""
RTF = """* peroxide
*
36 1

MASS  1 HX 1.00800 H
MASS  2 OX 15.99940 O

END
"""
PRM = """* peroxide
*

BONDS
HX OX 545.0 0.96
OX OX 300.0 1.47

ANGLES
HX OX OX 60.0 100.0

DIHEDRALS
HX OX OX HX 1.2 1 0.0
HX OX OX HX 0.7 2 180.0

NONBONDED
HX 0.0 -0.0460 0.2245
OX 0.0 -0.1521 1.7700

END
"""


def write(folder: Path, **texts: str) -> dict[str, Path]:
    """Files named by their endings."""
    found = {}
    for ending, text in texts.items():
        found[ending] = folder / f"peroxide.{ending}"
        found[ending].write_text(text, encoding="utf-8")
    return found


def agrees(target: targets.Target, system: mm.System) -> None:
    """Whether the target's energies are those of a system, in double precision, on frames from the minimum to strained ones."""
    rng = np.random.default_rng(0)
    frames = np.asarray(target.structure) + np.array([0.0, 0.003, 0.01, 0.03])[:, None, None] * rng.standard_normal((4, *X.shape))
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    energies = []
    for x in frames:
        context.setPositions(x)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    with jax.enable_x64(True):
        found = np.asarray(target.energies(jnp.asarray(frames))) * KT
    np.testing.assert_allclose(found, energies, rtol=1e-6, atol=1e-6)
    assert np.ptp(energies) > 10.0


# GROMACS.


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # OpenMM's reader, which is also called as it is
@pytest.mark.parametrize("cutoff", [None, 0.2])
def test_gromacs(cutoff: float | None, tmp_path: Path):
    files = write(tmp_path, top=TOP, gro=GRO)
    target = targets.from_gromacs(files["top"], files["gro"], temperature=300, cutoff=cutoff)
    assert target.name == "peroxide"
    assert target.elements == ("H", "O", "O", "H")
    assert target.bonds == ((0, 1), (1, 2), (2, 3))
    assert target.reflections
    options: dict[str, Any] = (
        {} if cutoff is None else {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": cutoff * unit.nanometer}
    )
    agrees(target, app.GromacsTopFile(str(files["top"])).createSystem(constraints=None, rigidWater=False, **options))
    # The two hydrogens are a pair of their own, which no cut-off ends; nothing else is far apart.
    assert target.n_particles == 4


def test_gromacs_files_that_cannot_be_read(tmp_path: Path):
    files = write(tmp_path, top=TOP, gro=GRO, itp="[ bonds ]\n1 2 1\n")
    with pytest.raises(TargetError, match=r"there is no file .*gone\.top"):
        targets.from_gromacs(tmp_path / "gone.top", files["gro"], temperature=300)
    with pytest.raises(TargetError, match=r"there is no file .*gone\.gro"):
        targets.from_gromacs(files["top"], tmp_path / "gone.gro", temperature=300)
    with pytest.raises(TargetError, match=r"peroxide\.gro is not a readable GROMACS topology file"):
        targets.from_gromacs(files["gro"], files["gro"], temperature=300)
    missing = tmp_path / "missing.top"
    missing.write_text('#include "nowhere.ff/forcefield.itp"\n' + TOP, encoding="utf-8")
    with pytest.raises(TargetError, match=r"missing\.top is not a readable GROMACS topology file .*nowhere\.ff"):
        targets.from_gromacs(missing, files["gro"], temperature=300)
    files["gro"].write_text(GRO.replace("    4\n", "    3\n", 1).replace(GRO.splitlines()[5] + "\n", ""), encoding="utf-8")
    with pytest.raises(TargetError, match=r"the system has 4 atoms, but the positions have shape \(3, 3\)"):
        targets.from_gromacs(files["top"], files["gro"], temperature=300)


# CHARMM.


@pytest.mark.parametrize("solvent", [None, "OBC2"])
def test_charmm(solvent: str | None, tmp_path: Path):
    files = write(tmp_path, psf=PSF, crd=CRD, rtf=RTF, prm=PRM)
    parameters = [files["rtf"], files["prm"]]
    target = targets.from_charmm(files["psf"], files["crd"], parameters, temperature=300, implicit_solvent=solvent, cutoff=2.0)
    assert target.bonds == ((0, 1), (1, 2), (2, 3))
    assert f"implicit_solvent='{solvent or 'none'}'" in target.fingerprint
    options: dict[str, Any] = {"implicitSolvent": None if solvent is None else getattr(app, solvent)}
    options |= {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 2.0 * unit.nanometer, "constraints": None, "rigidWater": False}
    agrees(target, app.CharmmPsfFile(str(files["psf"])).createSystem(app.CharmmParameterSet(*map(str, parameters)), **options))


def test_charmm_files_that_cannot_be_read(tmp_path: Path):
    files = write(tmp_path, psf=PSF, crd=CRD, rtf=RTF, prm=PRM)
    parameters = [files["rtf"], files["prm"]]
    with pytest.raises(TargetError, match=r"peroxide\.crd is not a readable CHARMM psf file"):
        targets.from_charmm(files["crd"], files["crd"], parameters, temperature=300)
    with pytest.raises(TargetError, match=r"there is no file .*gone\.prm"):
        targets.from_charmm(files["psf"], files["crd"], [files["rtf"], tmp_path / "gone.prm"], temperature=300)
    with pytest.raises(TargetError, match="no implicit solvent 'OBC3'"):
        targets.from_charmm(files["psf"], files["crd"], parameters, temperature=300, implicit_solvent="OBC3")
    files["prm"].write_text(PRM.replace("HX OX OX 60.0 100.0\n", ""), encoding="utf-8")
    with pytest.raises(TargetError, match=r"OpenMM cannot make a system of .*peroxide\.psf"):
        targets.from_charmm(files["psf"], files["crd"], parameters, temperature=300)


def test_the_command_line_reads_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from boltzflow import reference
    from boltzflow.cli import main

    found = []

    def sample(target: targets.Target, n: int, **_: object) -> None:
        found.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(reference, "sample", sample)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, top=TOP, gro=GRO, psf=PSF, crd=CRD, rtf=RTF, prm=PRM)
    assert main(["reference", "peroxide.top", "--coordinates", "peroxide.gro", "--temperature", "300"]) == 130
    words = ["--coordinates", "peroxide.crd", "--parameters", "peroxide.rtf", "peroxide.prm", "--implicit-solvent", "OBC2"]
    assert main(["reference", "peroxide.psf", *words, "--temperature", "300", "--cutoff", "2"]) == 130
    assert [target.name for target in found] == ["peroxide", "peroxide"]


# SMILES. RDKit is in no lock file: where it is not installed only what is said then is tested.

HALIDE = """
<ForceField>
 <AtomTypes>
  <Type name="c" class="c" element="C" mass="12.011"/>
  <Type name="h" class="h" element="H" mass="1.008"/>
  <Type name="f" class="f" element="F" mass="18.998"/>
  <Type name="l" class="l" element="Cl" mass="35.45"/>
  <Type name="b" class="b" element="Br" mass="79.904"/>
 </AtomTypes>
 <Residues>
  <Residue name="HAL">
   <Atom name="C" type="c"/><Atom name="H" type="h"/><Atom name="F" type="f"/><Atom name="L" type="l"/><Atom name="B" type="b"/>
   <Bond atomName1="C" atomName2="H"/><Bond atomName1="C" atomName2="F"/>
   <Bond atomName1="C" atomName2="L"/><Bond atomName1="C" atomName2="B"/>
  </Residue>
 </Residues>
 <HarmonicBondForce>
  <Bond class1="c" class2="h" length="0.109" k="280000"/><Bond class1="c" class2="f" length="0.135" k="280000"/>
  <Bond class1="c" class2="l" length="0.177" k="200000"/><Bond class1="c" class2="b" length="0.194" k="200000"/>
 </HarmonicBondForce>
 <HarmonicAngleForce><Angle class1="" class2="c" class3="" angle="1.911" k="400"/></HarmonicAngleForce>
</ForceField>
"""


@pytest.fixture
def halide(tmp_path: Path) -> str:
    path = tmp_path / "halide.xml"
    path.write_text(HALIDE, encoding="utf-8")
    return str(path)


def test_without_rdkit(halide: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(MissingExtraError, match="a molecule from SMILES needs rdkit, which is not installed; install the extra `smiles`"):
        targets.from_smiles("[C@H](F)(Cl)Br", force_field=halide, temperature=300)


def test_a_small_molecule_needs_parameters():
    with pytest.raises(TargetError, match="a small molecule needs parameters"):
        targets.from_smiles("CCO", temperature=300)


def test_a_molecule_from_its_smiles(halide: str):
    from rdkit import Chem as chem

    one = targets.from_smiles("[C@H](F)(Cl)Br", force_field=halide, temperature=300)
    other = targets.from_smiles("[C@@H](F)(Cl)Br", force_field=halide, temperature=300)
    assert one.elements == ("C", "F", "Cl", "Br", "H")
    assert len(one.chiral_centres) == len(other.chiral_centres) == 1
    assert one.chiral_centres[0].sign == -other.chiral_centres[0].sign
    assert one.fingerprint != other.fingerprint
    # Frames have the hand that the SMILES says, by RDKit's own reading of the structure.
    for target, smiles in ((one, "[C@H](F)(Cl)Br"), (other, "[C@@H](F)(Cl)Br")):
        molecule = chem.AddHs(chem.MolFromSmiles(smiles))
        conformer = chem.Conformer(5)
        for i, x in enumerate(np.asarray(target.structure) * 10.0):
            conformer.SetAtomPosition(i, x.tolist())
        expected = chem.MolToSmiles(chem.MolFromSmiles(smiles))
        molecule.AddConformer(conformer)
        chem.AssignStereochemistryFrom3D(molecule)
        assert chem.MolToSmiles(chem.RemoveHs(molecule)) == expected
        assert target.name == expected


def test_ethanol_by_charmm():
    target = targets.from_smiles("CCO", force_field="charmm36.xml", temperature=300, name="ethanol")
    assert target.n_particles == 9
    assert len(set(target.classes)) == 9 - 2 - 1  # a methyl and a methylene
    again = targets.from_smiles("CCO", force_field="charmm36.xml", temperature=300, name="ethanol")
    assert again.fingerprint == target.fingerprint
    np.testing.assert_array_equal(again.structure, target.structure)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C1CC", r"the SMILES 'C1CC' cannot be parsed \(it is no SMILES\)"),
        ("", "cannot be parsed"),
        ("C(C)(C)(C)(C)C", r"cannot be parsed \(.*valence"),
        ("CCO.O", r"'CCO\.O' has 2 fragments \(CCO, O\)"),
        ("FC(Cl)Br", r"does not define the stereo centre C 2; write @ or @@"),
        ("FC=CCl", r"leaves open whether the double bond of C 2 and C 3 is E or Z"),
        ("*C", r"atom 1 of '\*C' is no element"),
        (7, "must be a SMILES or RDKit's Mol, got int"),
    ],
)
def test_smiles_that_cannot_be_taken(smiles: Any, message: str, halide: str):
    with pytest.raises(TargetError, match=message):
        targets.from_smiles(smiles, force_field=halide, temperature=300)


def test_a_molecule_that_the_force_field_does_not_have(halide: str):
    with pytest.raises(TargetError, match="the force field halide does not know residue MOL 1 of chain A"):
        targets.from_smiles("CCO", force_field=halide, temperature=300)


class TestGenerators:
    """openmmforcefields, which is in no lock file and on no package index that tests may ask: that it is called, and missed, in words."""

    def test_without_it(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "openff", None)
        with pytest.raises(TargetError, match=r"openmmforcefields and the OpenFF toolkit, which are not both installed.*conda"):
            targets.from_smiles("CCO", small_molecules="openff-2.2.0", temperature=300)

    @pytest.mark.parametrize("name", ["openff-2.2.0", "gaff-2.11"])
    def test_with_it(self, name: str, halide: str, monkeypatch: pytest.MonkeyPatch):
        used = []

        class Generator:
            def __init__(self, kind: str, molecules: Any, forcefield: str) -> None:
                used.append((kind, molecules, forcefield))

            def generator(self, field: Any, residue: Any) -> bool:
                field.loadFile(halide)
                return True

        generators = types.SimpleNamespace(
            SMIRNOFFTemplateGenerator=lambda **options: Generator("SMIRNOFF", **options),
            GAFFTemplateGenerator=lambda **options: Generator("GAFF", **options),
        )
        toolkit = types.SimpleNamespace(Molecule=types.SimpleNamespace(from_rdkit=lambda molecule: molecule.GetNumAtoms()))
        for module, content in (("openff", types.ModuleType("openff")), ("openff.toolkit", toolkit)):
            monkeypatch.setitem(sys.modules, module, content)
        monkeypatch.setitem(sys.modules, "openmmforcefields", types.SimpleNamespace(generators=generators))
        target = targets.from_smiles("[C@H](F)(Cl)Br", small_molecules=name, temperature=300)
        assert used == [("GAFF" if name.startswith("gaff") else "SMIRNOFF", 5, name)]
        assert f"force_field='{name}'" in target.fingerprint
