"""Frames of one energy moved towards the equilibrium of another by short Langevin dynamics."""

import time

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from boltzflow.chemistry.openmm_systems import in_unit
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, TargetError
from boltzflow.progress import Wanted, told
from boltzflow.seeds import checked
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import BOLTZMANN, Target


def relax(
    target: Target,
    frames: Float[np.ndarray, "n N 3"],
    *,
    steps: int = 100,
    time_step: float = 1.0,
    friction: float = 0.05,
    seed: int = 0,
    progress: Wanted = None,
) -> Dataset:
    """Moves each frame by a short trajectory of Langevin dynamics under the energy of a target.

    Meant for energies too expensive to sample at length: frames of a force field are relaxed under a semi-empirical energy, as for the
    second alanine dipeptide data set of Klein, Krämer and Noé (2023). Bonds and angles find their new equilibrium in tens of
    femtoseconds; the populations of slow torsions stay those of the given frames, so that the frames are made to train on, and what is
    computed with the flow needs reweighting. The time step is not corrected for.

    Integrator: BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013). All frames take a step together, in one batch of gradients.

    Args:
        target: the energy; a molecule with topology, whose elements give the masses, in nm.
        frames: positions (n, N, 3) in nm.
        steps: steps of each trajectory, one gradient each.
        time_step: in fs.
        friction: in 1/fs.
        seed: of velocities and noise.
        progress: told how far it is; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        The last configuration of each trajectory that stayed finite.

    Raises:
        TargetError: if the target is no molecule.
        DataError: if the frames do not fit the target, or none stayed finite.
    """
    if target.topology is None or target.temperature is None:
        raise TargetError(f"target {target.name!r} is no molecule with a topology; masses are taken from its elements.")
    x = np.array(frames, np.float64)
    if x.ndim != 3 or x.shape[1:] != (target.n_particles, 3) or steps < 1:
        raise DataError(f"relaxation needs frames of shape (n, {target.n_particles}, 3) and at least 1 step, got {x.shape} and {steps}.")
    began = time.perf_counter()
    seed = checked(seed)
    rng = np.random.default_rng(seed)
    masses = np.array([in_unit(atom.element.mass, "dalton") for atom in target.topology.atoms()])[:, None]
    # nm, ps, g/mol and kJ/mol fit together.
    dt, thermal = 1e-3 * time_step, BOLTZMANN * target.temperature
    keep = np.exp(-friction * time_step)
    spread = np.sqrt(thermal / masses)

    def forces(x: Float[np.ndarray, "n N 3"]) -> Float[np.ndarray, "n N 3"]:
        return -thermal * np.asarray(target.energies_and_gradients(jnp.asarray(x))[1], np.float64)

    velocity, force = spread * rng.standard_normal(x.shape), forces(x)
    with told(progress) as bar:
        bar.start(steps, "relaxation")
        for step in range(steps):
            velocity += 0.5 * dt * force / masses
            x += 0.5 * dt * velocity
            velocity = keep * velocity + np.sqrt(1.0 - keep**2) * spread * rng.standard_normal(x.shape)
            x += 0.5 * dt * velocity
            force = forces(x)
            velocity += 0.5 * dt * force / masses
            bar.update(step + 1)
    energy = np.asarray(target.energies(jnp.asarray(x)))
    usable = np.isfinite(energy) & np.isfinite(x).all(axis=(1, 2))
    if not usable.any():
        raise DataError(f"no frame stayed finite under {target.name!r}; are the frames in nm, and of this molecule?")
    x = x[usable] - x[usable].mean(axis=1, keepdims=True)
    provenance = {
        "sampler": "short Langevin dynamics from given frames (BAOAB); not in equilibrium",
        "steps": steps,
        "time_step_fs": time_step,
        "friction_per_fs": friction,
        "seed": seed,
        "n": len(x),
        "lost": int((~usable).sum()),
        "seconds": time.perf_counter() - began,
        **Evaluations(len(usable), (steps + 1) * len(usable)).as_meta(),
    }
    return Dataset(x.astype(np.float32), target.fingerprint, target.units, provenance, **molecule_folder.texts(target))
