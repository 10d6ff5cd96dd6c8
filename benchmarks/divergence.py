"""What the divergence of a vector field costs: sparse exact, brute force and Hutchinson's estimate, over the number of particles.

    python benchmarks/divergence.py [--particles 4 13 55 128] [--repeats 5] [--no-brute-force-above 55]

Fresh networks at random configurations in 3-D, float32, as many configurations at once as sampling takes. Printed are milliseconds of one
velocity, and the price of velocity and divergence in velocities. The three kinds of divergence take turns with the velocity.
"""

import argparse
import statistics
import time

NETWORKS = {
    "two-interaction, 64": {"network": "two-interaction", "depth": 2, "hidden": 64, "radial": 32, "channels": 16},
    "EGNN 2x32": {"network": "egnn", "layers": 2, "hidden": 32},
    "EGNN 3x32": {"network": "egnn", "layers": 3, "hidden": 32},
}
METHODS = ("exact", "brute-force", "hutchinson")


def main() -> None:
    """Prints one line per network and number of particles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, nargs="+", default=[4, 13, 55, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-brute-force-above", type=int, default=55, help="particles beyond which brute force takes too long")
    arguments = parser.parse_args()

    from boltzflow import runtime

    runtime.configure()
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from boltzflow.config import ECNF, Network
    from boltzflow.flows.build import build_flow
    from boltzflow.flows.divergence import draw_probes, velocity_and_divergence
    from boltzflow.objectives.flow_matching import centred_normal
    from boltzflow.targets import lennard_jones

    print(f"{'network':22s}{'N':>5s}{'chunk':>7s}{'velocity ms':>13s}{'sparse':>9s}{'brute':>9s}{'Hutchinson':>12s}{'brute/sparse':>14s}")
    for n in arguments.particles:
        for label, options in NETWORKS.items():
            sizes = {name: value for name, value in options.items() if name != "network"}
            network = Network.named(options["network"])(**sizes)
            flow = build_flow(ECNF(network), lennard_jones(n), 1.0, key=jax.random.key(0))
            count = flow.chunk_size
            positions = jnp.asarray(1.5 * centred_normal(np.random.default_rng(0), (count, n, 3)))
            probes = draw_probes(1, n, 3, key=jax.random.key(1))

            def program(method, probes=probes):
                def one(field, x):
                    if method is None:
                        return field(0.4, x)
                    return velocity_and_divergence(field, 0.4, x, method=method, probes=probes)

                return eqx.filter_jit(lambda field, x: jax.vmap(lambda y: one(field, y))(x))

            names = [None, *(m for m in METHODS if m != "brute-force" or n <= arguments.no_brute_force_above)]
            programs = {name: program(name) for name in names}
            seconds = {name: [] for name in names}
            for each in programs.values():
                jax.block_until_ready(each(flow.field, positions))
            for _ in range(arguments.repeats):
                for name, each in programs.items():
                    began = time.perf_counter()
                    jax.block_until_ready(each(flow.field, positions))
                    seconds[name].append((time.perf_counter() - began) / count)
            median = {name: statistics.median(values) for name, values in seconds.items()}
            velocity = median[None]
            prices = [f"{median[m] / velocity:.1f}" if m in median else "-" for m in METHODS]
            ratio = f"{median['brute-force'] / median['exact']:.1f}" if "brute-force" in median else "-"
            print(
                f"{label:22s}{n:5d}{count:7d}{1e3 * velocity:13.3f}{prices[0]:>9s}{prices[1]:>9s}{prices[2]:>12s}{ratio:>14s}", flush=True
            )


if __name__ == "__main__":
    main()
