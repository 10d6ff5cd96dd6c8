"""Compiled force fields of whole peptides against OpenMM's Reference platform, on frames from the minimum to clashes.

Double precision is held to a relative 1e-6 in energies and 1e-5 in forces. In single precision two things are said: near the minimum, where
a molecule at room temperature is, energies differ by less than 1e-4 kT for each residue between the caps (root mean square; energies there
are some hundred kT); and in every frame, however strained, by less than 1e-5 of the energy or 1e-3 kT, whichever is more.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.chemistry.force_field import compile_system
from boltzflow.targets.base import BOLTZMANN

pytest.importorskip("openmm")
import openmm as mm  # noqa: E402

from boltzflow.chemistry.openmm_systems import Mechanics  # noqa: E402
from boltzflow.chemistry.peptides import build_peptide  # noqa: E402
from boltzflow.chemistry.systems import create_system, load_force_field  # noqa: E402

# Compiling without optimisation takes a third less time.
FAST = {"xla_backend_optimization_level": 0}
KT = BOLTZMANN * 300.0
# In nm. Strained by 0.005 nm a peptide has energies as at room temperature; at 0.1 nm atoms overlap.
NOISE = (0.0, 0.002, 0.005, 0.02, 0.05, 0.1)
EACH = 8
THERMAL = slice(0, 3 * EACH)

AMBER14 = ("amber14-all.xml", "implicit/gbn2.xml")
PEPTIDES = {
    "dipeptide ff96": ("A", "ff96"),
    "dipeptide ff99": ("A", "ff99"),
    "tetra-alanine": ("AAAA", AMBER14),
    # All atoms that amino acids have: rings, sulfur, an ammonium and a carboxylate.
    "ten residues": ("GAVMSDFYWK", AMBER14),
    "CMAP": ("AG", ("amber19/protein.ff19SB.xml", "implicit/gbn2.xml")),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A peptide's system, frames of it, and what OpenMM says of them in kJ/mol and kJ/mol/nm."""

    residues: int
    system: mm.System
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Root mean square force of each frame; at the minimum, where forces vanish, that of thermal frames."""
        sizes = np.sqrt(np.mean(self.forces**2, axis=(1, 2)))
        return np.maximum(sizes, sizes[2 * EACH : 3 * EACH].mean())


@functools.cache
def case(name: str) -> Case:
    sequence, names = PEPTIDES[name]
    topology, built = build_peptide(sequence)
    system = create_system(load_force_field(names), topology, built, names)
    rng = np.random.default_rng(sum(map(ord, name)))
    minimum = Mechanics(system).minimise(built)
    strained = minimum + np.repeat(NOISE, EACH)[:, None, None] * rng.standard_normal((EACH * len(NOISE), *minimum.shape))
    turns, _ = np.linalg.qr(rng.standard_normal((len(strained), 3, 3)))
    # As single precision has them, so that both precisions compute the same frames.
    positions = np.asarray(strained @ turns + rng.normal(scale=0.2, size=(len(strained), 1, 3)), np.float32).astype(np.float64)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    energies, forces = [], []
    for x in positions:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    return Case(len(sequence), system, positions, np.array(energies), np.array(forces))


def compiled(case: Case, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Energies and forces of all frames, in kJ/mol and kJ/mol/nm."""
    with jax.enable_x64(dtype == "float64"):
        field = compile_system(case.system)
        program = jax.jit(jax.vmap(jax.value_and_grad(field.energy)), compiler_options=FAST)
        energies, gradients = program(jnp.asarray(case.positions, dtype))
        assert energies.dtype == gradients.dtype == dtype
        return np.asarray(energies, np.float64), -np.asarray(gradients, np.float64)


@pytest.mark.parametrize("name", PEPTIDES)
class TestAgainstOpenMM:
    def test_the_frames_are_what_they_should_be(self, name: str):
        strain = case(name).energies.reshape(len(NOISE), EACH) / KT
        strain -= strain[0, 0]
        assert strain[1:3].max() < 200 * case(name).residues
        assert strain[-1].min() > 1e4
        if name == "CMAP":
            assert any(isinstance(force, mm.CMAPTorsionForce) for force in case(name).system.getForces())

    def test_double_precision(self, name: str):
        peptide = case(name)
        energies, forces = compiled(peptide, "float64")
        np.testing.assert_allclose(energies, peptide.energies, rtol=1e-6)
        error = np.abs(forces - peptide.forces).max(axis=(1, 2))
        assert (error < 1e-5 * peptide.scale).all()

    def test_single_precision(self, name: str):
        peptide = case(name)
        energies, forces = compiled(peptide, "float32")
        u, expected = energies / KT, peptide.energies / KT
        assert np.sqrt(np.mean((u - expected)[THERMAL] ** 2)) < 1e-4 * peptide.residues
        np.testing.assert_allclose(u, expected, rtol=1e-5, atol=1e-3)
        error = np.abs(forces - peptide.forces).max(axis=(1, 2))
        assert (error < 1e-4 * peptide.scale).all()
