"""What runs in a worker of molecular dynamics: a piece of a trajectory with OpenMM."""

import os
import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from boltzflow import runtime


class Settings(NamedTuple):
    """Langevin dynamics of a molecule.

    Attributes:
        system: XML of the `openmm.System`.
        temperature: in kelvin.
        friction: per ps.
        time_step: in ps.
        platform: name of OpenMM's platform.
    """

    system: str
    temperature: float
    friction: float
    time_step: float
    platform: str


class Piece(NamedTuple):
    """A piece of a trajectory and where it ends.

    Attributes:
        frames: (K, N, 3) in nm.
        energies: (K,) potential energies in kJ/mol.
        positions: (N, 3) the last positions.
        velocities: (N, 3) the last velocities in nm/ps.
    """

    frames: Float[np.ndarray, "K N 3"]
    energies: Float[np.ndarray, " K"]
    positions: Float[np.ndarray, "N 3"]
    velocities: Float[np.ndarray, "N 3"]


def initialise() -> None:
    """Makes a process ready."""
    runtime.become_worker()
    # Processes are the parallelism here; OpenMM's threads would only fight over the cores.
    os.environ["OPENMM_CPU_THREADS"] = "1"


def run(
    settings: Settings,
    positions: Float[np.ndarray, "N 3"],
    velocities: Float[np.ndarray, "N 3"] | None,
    draws: int,
    steps: int,
    *,
    seed: int,
) -> Piece:
    """Goes on from positions and velocities, and keeps a frame every `steps` steps.

    Frames are not finite from where the dynamics has become unstable.

    Args:
        settings: the dynamics.
        positions: where to begin, in nm.
        velocities: in nm/ps; None: drawn at the temperature.
        draws: number of frames, K.
        steps: time steps from a frame to the next.
        seed: a positive number; it alone fixes the noise.
    """
    import openmm

    context, integrator = _prepared(settings, positions, seed)
    if velocities is None:
        context.setVelocitiesToTemperature(settings.temperature, seed)
    else:
        context.setVelocities(velocities)
    frames, energies = np.full((draws, *positions.shape), np.nan), np.full(draws, np.nan)
    for draw in range(draws):
        try:
            integrator.step(steps)
            state: Any = context.getState(positions=True, energy=True)
        except openmm.OpenMMException:
            break
        # OpenMM's numbers come in its own units, which are these.
        frames[draw], energies[draw] = state.getPositions(asNumpy=True)._value, state.getPotentialEnergy()._value
    velocities = np.asarray(context.getState(velocities=True).getVelocities(asNumpy=True)._value)
    return Piece(frames, energies, frames[-1], velocities)


def speed(settings: Settings, positions: Float[np.ndarray, "N 3"], seconds: float) -> float:
    """Steps per second from a structure on.

    Args:
        settings: the dynamics.
        positions: where to begin, in nm.
        seconds: for how long to try, apart from getting ready.

    Returns:
        The number; 0 where OpenMM fails.
    """
    import openmm

    try:
        context, integrator = _prepared(settings, positions, 1)
        context.setVelocitiesToTemperature(settings.temperature, 1)
        integrator.step(10)
        steps, taken, began = 10, 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            integrator.step(steps)
            taken += steps
        # Asked for, so that what a platform has only queued is done.
        context.getState(energy=True)
    except openmm.OpenMMException:
        return 0.0
    return taken / max(passed, time.perf_counter() - began)


def _prepared(settings: Settings, positions: Float[np.ndarray, "N 3"], seed: int) -> tuple[Any, Any]:
    """A context at the positions, and its integrator."""
    import openmm

    integrator = openmm.LangevinMiddleIntegrator(settings.temperature, settings.friction, settings.time_step)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName(settings.platform)
    context = openmm.Context(openmm.XmlSerializer.deserialize(settings.system), integrator, platform)
    # Nothing holds the molecule at the origin, and far from it digits would be lost.
    context.setPositions(positions - positions.mean(axis=0))
    return context, integrator
