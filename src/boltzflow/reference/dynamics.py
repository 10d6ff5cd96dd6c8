"""Makes reference data of molecules with molecular dynamics, a second way beside the tempering sampler."""

import concurrent.futures
import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, TargetError
from boltzflow.progress import FractionOf, Wanted, told
from boltzflow.reference import dynamics_worker as dynamics
from boltzflow.reference.observables import observables
from boltzflow.reference.result import (
    ReferenceResult,
    apply_symmetries,
    chain_by_chain,
    check_numbers,
    judged,
    provenance,
)
from boltzflow.runtime import available_cores
from boltzflow.seeds import checked
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import BOLTZMANN, Target

SAMPLER = "Langevin dynamics (openmm)"
"""What the provenance of its frames says, which are chain by chain in the order of time."""

_CHAINS = 4
# With fewer draws of each chain R-hat could not tell anything.
_LEAST_DRAWS = 16
_PIECES = 20
_TRIED = ("Reference", "CPU")
_TRIAL_SECONDS = 0.3
# The trial is noisy; where they are near, the choice should not change from run to run.
_MARGIN = 1.2


def molecular_dynamics(
    target: Target,
    n: int,
    *,
    seed: int = 0,
    chains: int = _CHAINS,
    interval: float = 1.0,
    time_step: float = 0.001,
    friction: float = 1.0,
    equilibration: float = 100.0,
    platform: str | None = None,
    progress: Wanted = None,
) -> ReferenceResult:
    """Draws configurations of a molecule by Langevin dynamics with OpenMM.

    Independent chains start at the minimum of the energy, forget it during an equilibration that is thrown away, and then give a frame
    at each interval. Bonds are not constrained, for the target has none. At last each frame is moved by a random symmetry of the target,
    as `sample` does.

    Unlike `sample` this is not exact: no step is accepted or rejected, so that a time step that is too long biases the frames. OpenMM's
    LangevinMiddleIntegrator samples positions in harmonic wells without bias, which keeps the error of bonds small: in 4 ns of alanine
    dipeptide with steps of 1 to 3 fs each, mean energy and virial show none beyond their noise (docs/results.md). And a barrier of more
    than a few kT is crossed too rarely: a basin that no chain has entered is missing from the frames, and no diagnostic can see it.

    Chains run in processes of their own, one for each core. A script needs `if __name__ == "__main__":` around what it runs.

    Args:
        target: a molecule.
        n: number of frames, ordered chain by chain.
        seed: the same seed on the same machine and platform gives the same frames.
        chains: trajectories side by side.
        interval: ps from a frame to the next.
        time_step: in ps. Bonds to hydrogen swing once in 0.01 ps; beyond about a third of that the dynamics is unstable.
        friction: per ps; the density does not depend on it.
        equilibration: ps at the start of each chain that are thrown away.
        platform: OpenMM's platform, such as "Reference" (double precision) or "CPU" (single precision); each chain has one core. None:
            both are tried for a moment, and CPU is taken where it is faster by a fifth or more. Which one that is depends on
            the forces: at 22 atoms CPU is several times as fast with a CustomGBForce (GBn2), Reference with a GBSAOBCForce.
        progress: told how far it is; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        Frames and diagnostics: R-hat and effective sample size of the energy, the radius of gyration, and the sine and cosine of the
        torsions about bonds that turn. A failed convergence is told in `diagnostics["converged"]` and `sentence()`, not raised.

    Raises:
        DataError: if a number is not positive, or the interval is shorter than the time step.
        TargetError: if the target has no `openmm.System`, the platform is not there, or the dynamics becomes unstable.
    """
    began = time.perf_counter()
    check_numbers(n, chains)
    _check_settings(interval, time_step, friction, equilibration)
    settings = _settings(target, friction, time_step, platform or "Reference")
    draws = max(-(-n // chains), _LEAST_DRAWS)
    steps = round(interval / time_step)
    seed = checked(seed)
    generator, seeds = np.random.default_rng(seed), _Seeds(seed=seed)
    with told(progress) as bar, _Chains(settings, np.asarray(target.structure), chains, seeds=seeds) as running:
        report = FractionOf(bar, f"molecular dynamics of {target.name}")
        if platform is None:
            report(0.0, "choosing OpenMM's platform")
            platform = running.choose_platform()
        report(0.0, "equilibration")
        # In one draw of many steps, of which nothing is kept but where it ends.
        whole = equilibration + draws * interval
        running.advance(1, max(1, round(equilibration / time_step)))
        frames, energies = [], []
        for piece in np.array_split(np.arange(draws), min(_PIECES, draws)):
            report((equilibration + piece[0] * interval) / whole, f"a frame every {interval:g} ps")
            parts = running.advance(len(piece), steps)
            frames.append([part.frames for part in parts])
            energies.append([part.energies for part in parts])
        report(1.0, "done")
    positions = np.concatenate(frames, axis=1)
    positions -= positions.mean(axis=2, keepdims=True)
    energy = np.concatenate(energies, axis=1) / (BOLTZMANN * settings.temperature)
    observed = observables(energy, positions, target)
    ordered = positions.swapaxes(0, 1).reshape(-1, target.n_particles, 3)[chain_by_chain(draws, chains, n)]
    ordered = apply_symmetries(ordered, target, generator=generator)
    found = judged(observed, ordered, target)
    # A gradient at each step of each chain; the trial of the platforms, which takes as many as it has time for, is not counted.
    made = chains * (max(1, round(equilibration / time_step)) + draws * steps)
    evaluations = found.pop("evaluations") + Evaluations(chains * (draws + 1), made)
    frame_energies = found.pop("frame_energies")
    diagnostics = {
        **found,
        "chains": chains,
        "interval": steps * time_step,
        "time_step": time_step,
        "friction": friction,
        "equilibration": equilibration,
        "platform": platform,
        "sampled_time": chains * draws * steps * time_step,
        "seconds": time.perf_counter() - began,
        **evaluations.as_meta(),
    }
    origin = provenance(SAMPLER, ("boltzflow", "openmm", "numpy"), f"{platform} platform", diagnostics, seed=seed, n=n)
    texts = molecule_folder.texts(target)
    return ReferenceResult(Dataset(ordered, target.fingerprint, target.units, origin, **texts, energies=frame_energies), diagnostics)


def _check_settings(interval: float, time_step: float, friction: float, equilibration: float) -> None:
    for name, value in (("interval", interval), ("time_step", time_step), ("friction", friction)):
        if not 0 < value < math.inf:
            raise DataError(f"{name} must be a positive number, got {value}.")
    if not 0 <= equilibration < math.inf:
        raise DataError(f"equilibration must be a number of ps, 0 or more, got {equilibration}.")
    if interval < time_step:
        raise DataError(f"the interval of {interval:g} ps is shorter than the time step of {time_step:g} ps; both are in ps.")


def _settings(target: Target, friction: float, time_step: float, platform: str) -> dynamics.Settings:
    if not target.system or target.temperature is None:
        raise TargetError(
            f"molecular dynamics needs a molecule made from an OpenMM system, and target {target.name!r} has none; use the tempering "
            "sampler."
        )
    from boltzflow.chemistry.openmm_systems import platforms

    known = platforms()
    if platform not in known:
        raise TargetError(f"OpenMM has no platform {platform!r} here; there are: {', '.join(known)}.")
    return dynamics.Settings(target.system, target.temperature, friction, time_step, platform)


class _Seeds:
    """Seeds for OpenMM, which takes 0 to mean any."""

    def __init__(self, *, seed: int) -> None:
        self._generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])

    def next(self) -> int:
        return int(self._generator.integers(1, 2**31 - 1))


class _Chains:
    """Chains in processes of their own: the random numbers of OpenMM's reference platform are one stream for a whole process."""

    def __init__(self, settings: dynamics.Settings, structure: Float[np.ndarray, "N 3"], chains: int, *, seeds: _Seeds) -> None:
        self._settings, self._seeds = settings, seeds
        self._states: list[tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"] | None]] = [(structure, None)] * chains
        if multiprocessing.current_process().daemon:
            raise TargetError(
                "molecular dynamics runs in processes of its own, but this process is itself a daemonic worker of a pool, which may have "
                "none; call it outside of the pool."
            )
        # Spawned, for a fork of a process with JAX's threads can hang.
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(min(chains, available_cores()), context, dynamics.initialise)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def advance(self, draws: int, steps: int) -> Sequence[dynamics.Piece]:
        """The next piece of every chain."""
        parts = self._results(
            [self._pool.submit(dynamics.run, self._settings, *state, draws, steps, seed=self._seeds.next()) for state in self._states]
        )
        if not all(np.isfinite(part.frames).all() and np.isfinite(part.energies).all() for part in parts):
            raise TargetError(
                f"molecular dynamics became unstable with a time step of {self._settings.time_step:g} ps; choose a shorter `time_step`."
            )
        self._states = [(part.positions, part.velocities) for part in parts]
        return parts

    def choose_platform(self) -> str:
        """Takes the CPU platform where it is faster than the Reference platform on one core, and tells which one is taken."""
        from boltzflow.chemistry.openmm_systems import platforms

        structure = self._states[0][0]
        speeds = {}
        for name in (name for name in _TRIED if name in platforms()):
            task = self._pool.submit(dynamics.speed, self._settings._replace(platform=name), structure, _TRIAL_SECONDS)
            speeds[name] = self._results([task])[0]
        if speeds.get("CPU", 0.0) > _MARGIN * speeds.get("Reference", 0.0):
            self._settings = self._settings._replace(platform="CPU")
        return self._settings.platform

    def _results(self, futures: "Sequence[concurrent.futures.Future[Any]]") -> list[Any]:
        from boltzflow.chemistry.openmm_systems import import_openmm, one_line

        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise TargetError(
                'the processes of molecular dynamics have died; a script needs `if __name__ == "__main__":` around what it runs.'
            ) from error
        except import_openmm().OpenMMException as error:
            raise TargetError(f"OpenMM refuses the dynamics on its platform {self._settings.platform} ({one_line(error)}).") from error
