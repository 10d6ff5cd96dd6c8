"""From a flow to its target: effective samples and log Z for the energies and seconds that each way costs.

    python benchmarks/corrections.py [--models dw4 lj13 lj13-eacf] [--energies 20000] [--seeds 8] [--overhead]

Plain reweighting, log q averaged over copies (augmented flows), annealing on the geometric and on the direct path, and chains.
Two effective numbers: of the weights, n times the reverse ESS of Kish, which resampling makes look better than it is, or n over the
autocorrelation time of chains; and of the mean energy, its variance over the squared error that groups of samples show (plain samples are
cut into groups of 256 for it). `--overhead` compares the wall time of an annealing with that of its densities alone. `--seeds` repeats each
way with as many seeds and judges it by its errors against the exact values alone, which no heavy tail can flatter.
"""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from boltzflow.models import Model
    from boltzflow.sampling import Samples

GROUP = 256


def row(name: str, samples: "Samples", seconds: float) -> str:
    """One line of the table."""
    from boltzflow.analysis import grouped, weights
    from boltzflow.counting import Evaluations

    spent = Evaluations.of_meta(samples.meta) or Evaluations(energies=samples.n)
    n = samples.n
    groups = samples.group if samples.grouped else 1 + np.arange(n) // GROUP
    worth = grouped.effective(samples.log_weight, samples.u, groups)
    time_of_chains = samples.meta.get("diagnostics", {}).get("autocorrelation_time")
    effective = n / time_of_chains if time_of_chains else n * weights.reverse_ess(samples.log_weight).value
    rate = 1e6 / spent.total
    log_z = samples.log_z()
    columns = (
        name,
        n,
        spent.energies,
        spent.gradients,
        f"{seconds:.0f}",
        f"{effective:.0f}",
        f"{rate * effective:.0f}",
        f"{rate * n * worth.value:.0f} [{rate * n * worth.low:.0f}, {rate * n * worth.high:.0f}]",
        "-" if np.isnan(log_z.value) else " ".join(log_z.texts()),
        " ".join(samples.expectation(samples.u).texts()),
    )
    return "| " + " | ".join(str(column) for column in columns) + " |"


def errors(name: str, runs: "list[Samples]", model: "Model") -> str:
    """One line of the table of repeated runs: errors against the exact values, and how many samples of the target would have them."""
    from scipy.stats import chi2

    from boltzflow.counting import Evaluations

    exact, count = model.target.exact, len(runs)
    spent = np.mean([(Evaluations.of_meta(samples.meta) or Evaluations(energies=samples.n)).total for samples in runs])
    log_z = [samples.log_z() for samples in runs]
    means = [samples.expectation(samples.u) for samples in runs]
    # The variance of the energy at the target, from all runs.
    variance = float(np.mean([samples.expectation(samples.u**2).value - mean.value**2 for samples, mean in zip(runs, means, strict=True)]))
    columns: list[Any] = [name, count, f"{spent:.0f}"]
    for found, known in ((log_z, exact.log_z), (means, exact.mean_energy)):
        values = np.array([one.value for one in found])
        two_sided = [one for one in found if np.isfinite([one.low, one.high]).all()]
        columns += [
            f"{np.sqrt(np.mean((values - known) ** 2)):.3f}" if np.isfinite(values).all() else "-",
            f"{sum(one.low <= known <= one.high for one in two_sided)} of {len(two_sided)}",
        ]
    squares = float(np.sum((np.array([one.value for one in means]) - exact.mean_energy) ** 2))
    worth = [variance * place / squares * 1e6 / spent for place in (count, *chi2.ppf([0.025, 0.975], count))]
    columns.append(f"{worth[0]:.0f} [{worth[1]:.0f}, {worth[2]:.0f}]")
    return "| " + " | ".join(str(column) for column in columns) + " |"


def ways(model: "Model", energies: int, *, seed: int = 1) -> dict[str, Callable[[], "Samples"]]:
    """Ways from the flow to the target by name."""
    from boltzflow.sampling.averaging import averaged
    from boltzflow.sampling.correct import metropolis, smc
    from boltzflow.sampling.generate import generate

    flow, target = model.flow, model.target
    plain = min(energies, 8_192)
    options: dict[str, Any] = {"seed": seed, "energies": energies}
    found: dict[str, Callable[[], Samples]] = {"plain": lambda: generate(flow, target, plain, seed=seed)}
    if flow.noisy_draws:
        found["averaged over copies"] = lambda: averaged(generate(flow, target, min(energies, 1_024), seed=seed), flow, target)
        found["smc, geometric"] = lambda: smc(flow, target, path="geometric", **options)
    found["smc, direct"] = lambda: smc(flow, target, path="direct", **options)
    found["metropolis"] = lambda: metropolis(flow, target, **options)
    return found


def overhead(model: "Model") -> float:
    """Wall time of an annealing over that of its densities with their gradients alone, both compiled, one thread each."""
    import jax
    import jax.numpy as jnp

    from boltzflow.sampling.correct import annealing
    from boltzflow.sampling.correct.spaces import Space

    space = Space(model.flow, model.target, geometric=True)
    size, chunk, stages, leapfrog = 256, min(model.flow.chunk_size, 256), 3, 3
    key = jax.random.key(0)
    choice = annealing.Choice(jnp.asarray(0.3), jnp.asarray(0.1), jnp.ones(2) * 0.01)
    choices = [choice._replace(b=jnp.asarray(b)) for b in (0.3, 0.7, 1.0)]

    def anneal() -> None:
        jax.block_until_ready(annealing.anneal(space, choices, size=size, moves=1, leapfrog=leapfrog, chunk=chunk, key=key))

    cloud = annealing.begin(space, size, chunk, key=key)
    coordinates = cloud.walkers.coordinates

    @jax.jit
    def densities(coordinates: jax.Array) -> jax.Array:
        def repeat(total: jax.Array, shift: jax.Array) -> tuple[jax.Array, None]:
            parts = jax.lax.map(space.parts, coordinates + 1e-6 * shift, batch_size=chunk)
            # All parts are used, so that none is left out by the compiler.
            return total + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(parts)), None

        return jax.lax.scan(repeat, jnp.zeros(()), jnp.arange(stages * leapfrog, dtype=coordinates.dtype))[0]

    def alone() -> None:
        jax.block_until_ready(annealing.begin(space, size, chunk, key=key))
        jax.block_until_ready(densities(coordinates))

    seconds: dict[Callable[[], None], list[float]] = {anneal: [], alone: []}
    for turn in range(4):
        # In turn, so that other work on the machine slows both alike.
        for work, times in seconds.items():
            began = time.perf_counter()
            work()
            if turn:
                times.append(time.perf_counter() - began)
    return min(seconds[anneal]) / min(seconds[alone]) - 1.0


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["dw4", "lj13", "lj13-eacf"])
    parser.add_argument("--energies", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, help="judge by the errors of so many runs against exact values")
    parser.add_argument("--only", nargs="+", help="ways, such as plain and 'smc, geometric'; all if not given")
    parser.add_argument("--overhead", action="store_true", help="the overhead of annealing alone, for augmented flows")
    arguments = parser.parse_args()
    from boltzflow import runtime
    from boltzflow.models import load_model

    runtime.configure()
    for name in arguments.models:
        model = load_model(name)
        if arguments.overhead:
            print(f"{name}: {100 * overhead(model):.1f} % over the densities alone", flush=True)
            continue
        print(f"\n{name}: exact log Z {model.target.exact.log_z}, mean energy {model.target.exact.mean_energy}\n")
        if arguments.seeds:
            print("| way | runs | energies each | error of log Z | held | error of the mean energy | held | per 1e6, by that error |")
            print("|---|---|---|---|---|---|---|---|", flush=True)
            for way in ways(model, arguments.energies):
                if not arguments.only or way in arguments.only:
                    runs = [ways(model, arguments.energies, seed=seed)[way]() for seed in range(1, 1 + arguments.seeds)]
                    print(errors(way, runs, model), flush=True)
            continue
        print("| way | n | energies | gradients | s | effective | per 1e6 | per 1e6, by the mean energy | log Z | mean energy |")
        print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
        for way, work in ways(model, arguments.energies).items():
            if arguments.only and way not in arguments.only:
                continue
            began = time.perf_counter()
            samples = work()
            print(row(way, samples, time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
