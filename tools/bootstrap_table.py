"""What cooling finds from a few frames of one basin: two particles whose distance has two wells, and barriers of several heights between.

    python tools/bootstrap_table.py [--barriers 1 3 6 10] [--frames 100] [--steps 3000] [--seed 0]

All frames that the flow is given lie in the inner well. Printed for each barrier: the share of the outer well that is right (by
quadrature), that of the flow's samples as they are and reweighted, with its interval, and the effective sample size, which tells nothing of
what is missing.
"""

import argparse
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import boltzflow as bf
from boltzflow import config, datasets, targets

# Where the wells are, and the top of the barrier between them.
INNER, OUTER, TOP = 1.5, 3.5, 2.5


def energy_of(barrier: float):
    """Reduced energy of two particles at a distance; `barrier` is its height over both wells."""

    def energy(positions: Float[Array, "2 3"]) -> Float[Array, ""]:
        r = jnp.sqrt(jnp.sum((positions[0] - positions[1]) ** 2) + 1e-12)
        return barrier * (((r - TOP) / (OUTER - TOP)) ** 2 - 1.0) ** 2

    return energy


def densities(barrier: float) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Distances, and the density of them that is right, on a grid."""
    r = np.linspace(1e-3, 8.0, 40_001)
    density = r**2 * np.exp(-barrier * (((r - TOP) / (OUTER - TOP)) ** 2 - 1.0) ** 2)
    return r, density / density.sum()


def frames_of(barrier: float, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 2 3"]:
    """Independent frames of the inner well."""
    r, density = densities(barrier)
    inside = r < TOP
    distance = rng.choice(r[inside], size=n, p=density[inside] / density[inside].sum())
    axis = rng.standard_normal((n, 3))
    half = 0.5 * distance[:, None] * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    return np.stack([half, -half], axis=1)


def outside(positions: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, " n"]:
    """1 for configurations in the outer well."""
    return (np.linalg.norm(positions[:, 0] - positions[:, 1], axis=1) > TOP).astype(float)


def main() -> None:
    """One flow for each barrier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--barriers", type=float, nargs="+", default=[1.0, 3.0, 6.0, 10.0])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| barrier / kT | outer well, right | of the flow | reweighted | reverse ESS, % |\n|---|---|---|---|---|")
    for barrier in options.barriers:
        target = targets.from_function(energy_of(barrier), 2, 3, name=f"wells-{barrier:g}")
        flow = config.ECNF(network=config.EGNN(layers=2, hidden=32, radial=16), solver=config.GaussLegendre(nodes=12))
        cooling = config.Cooling(learn=config.FlowMatching(), start="frames", frames=2_000, rung_steps=options.steps // 10)
        stage = config.Stage(cooling, config.Adam(ema_decay=0.99), steps=options.steps, batch_size=256, microbatch=128)
        with tempfile.TemporaryDirectory() as folder:
            # Frames of one basin are no sample of the target, and the virial check knows it.
            found = frames_of(barrier, options.frames, np.random.default_rng(options.seed))
            frames = datasets.of(found, target, allow_virial_mismatch=True)
            run = bf.fit(
                target,
                frames,
                flow=flow,
                stages=[stage],
                options=config.RunOptions(seed=options.seed),
                out=Path(folder) / "run",
                validation=0,
                allow_virial_mismatch=True,
                progress=False,
            )
            samples = run.sample(options.n, seed=options.seed + 1)
        r, density = densities(barrier)
        found, ess = samples.expectation(outside), samples.ess().scaled(100.0)
        print(
            f"| {barrier:g} | {density[r > TOP].sum():.3f} | {outside(samples.positions).mean():.3f} "
            f"| {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | {ess.value:.1f} [{ess.low:.1f}, {ess.high:.1f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
