"""How much the tempering sampler spends before its first frames and between them: fitted to what an energy costs."""

import dataclasses
import time
from typing import Any

import jax

from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

# Chosen from a few settings tried with one seed each, not optimised. Gradients per independent frame at acceptance 0.8, as mean leapfrog
# steps × HMC steps between swaps: DW4 393 (6×2), 492 (12×1), 717 (12×2), 872 (24×1); LJ13 with four temperatures up to 2 595 (12×1),
# 622 (12×2), 684 (24×1), a difference within the noise. LJ13 without tempering needed 178 to 245, so tempering costs there and buys safety.
_LEAPFROG_STEPS = 12
# Bonds force short steps, a hundredth of what torsions need to turn. Alanine dipeptide: 2 000 gradients at each temperature from one
# independent frame to the next, by the radius of gyration (one setting, one seed).
_LEAPFROG_STEPS_OF_MOLECULES = 48
_CHAINS = 256
# Warm-up and pilot of a molecule take as many sweeps as thousands of frames of each chain, and every chain pays for them.
_CHAINS_OF_MOLECULES = 64
# Of an expensive energy, seconds of work before the first frames.
_PATIENCE = 20.0

# Batches by which the cost of an energy is measured: one to start workers and compile, and one that is timed.
_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Effort:
    """What is done for an energy of a certain cost.

    Attributes:
        name: of this effort, which a run that is continued keeps.
        chains: ladders side by side, if the user names none.
        share_chains: whether fewer do for fewer frames, so that each gives some dozens.
        leapfrog_steps: mean number of leapfrog steps of an HMC step.
        turning: turns about bonds after each HMC step, if a molecule has bonds that turn; each costs as much as a leapfrog step.
        warm_up: sweeps and how fast step sizes are fitted in them, part by part: first fast and then averaged. The first sweeps of few must
            be fast to find the size at all.
        pilot: sweeps that measure the autocorrelation.
        chunk: draws between two states that are kept and two reports; a kill loses no more.
        most_thin: sweeps between two frames at most; None: as many as the autocorrelation asks for.
    """

    name: str
    chains: int
    share_chains: bool
    leapfrog_steps: int
    turning: int
    warm_up: tuple[tuple[int, float], ...]
    pilot: int
    chunk: int
    most_thin: int | None = None


def of_name(name: str, target: Target) -> Effort:
    """The effort of a name."""
    molecule = target.topology is not None
    return {
        "compiled": Effort(
            "compiled",
            _CHAINS_OF_MOLECULES if molecule else _CHAINS,
            True,
            _LEAPFROG_STEPS_OF_MOLECULES if molecule else _LEAPFROG_STEPS,
            4,
            ((200, 0.5), (200, 0.1)),
            256,
            16,
        ),
        # Few chains with a short warm-up, so that the first frames come soon.
        "outside JAX": Effort("outside JAX", 4, False, _LEAPFROG_STEPS, 1, ((16, 2.0), (16, 0.5), (16, 0.1)), 32, 2),
        "expensive": Effort("expensive", 4, False, _LEAPFROG_STEPS // 2, 1, ((8, 2.0), (8, 0.5), (8, 0.1)), 16, 1, 8),
    }[name]


def fitting(target: Target, temperatures: int) -> Effort:
    """The effort for a target: of an energy outside JAX by the time that it takes here.

    Args:
        target: the target.
        temperatures: of the ladder.
    """
    if not is_expensive(target):
        return of_name("compiled", target)
    usual = of_name("outside JAX", target)
    sweeps = sum(number for number, _ in usual.warm_up) + usual.pilot
    calls = sweeps * usual.leapfrog_steps
    return usual if calls * seconds_of_batch(target, usual.chains * temperatures) < _PATIENCE else of_name("expensive", target)


def spent_on_measuring(target: Target, temperatures: int) -> int:
    """Energies with gradients that `fitting` evaluates.

    Args:
        target: the target.
        temperatures: of the ladder.
    """
    return _BATCHES * of_name("outside JAX", target).chains * temperatures if is_expensive(target) else 0


def seconds_of_batch(target: Target, size: int) -> float:
    """What energies and gradients of some configurations take together, workers started."""
    keys: Any = jax.random.split(jax.random.key(0), (_BATCHES, size))
    # Others the second time: calculators remember what they have computed.
    first, second = jax.vmap(jax.vmap(lambda key: target.starting_positions(key=key)))(keys)
    evaluate = jax.jit(jax.vmap(jax.value_and_grad(target.energy)))
    jax.block_until_ready(evaluate(first))
    began = time.perf_counter()
    jax.block_until_ready(evaluate(second))
    return time.perf_counter() - began
