"""What energy and gradient of a molecule cost on one core: compiled to JAX against OpenMM's Reference platform.

    python benchmarks/force_field.py [--sequence A] [--caps ace-nme] [--force-field ff99] [--cutoff NM] [--batch 1024]
        [--rounds 9] [--core 0]

The process is bound to one core before anything starts a thread. All rows take turns in one run, so that other work on the machine hits
them alike; printed are microseconds per configuration, wall time (median, least and most of the rounds) and CPU time of the process.

OpenMM is timed twice. "per configuration" is what a Boltzmann generator needs: new positions in, energy and forces out, with what Python
takes for that. "per step" is a step of molecular dynamics, whose loop over forces is C++ alone: what OpenMM would cost without Python.

The last lines estimate the limit: operations and transcendental functions of one configuration, as XLA counts them in the formulas, over
the rates at which this core works through simple loops that stay in registers. Nothing is loaded, gathered or computed twice in that
estimate, so no program reaches it.
"""

import argparse
import os
import statistics
import time

_FUNCTIONS = ("log", "exp", "rsqrt")


def main() -> None:
    """Prints one line per way to compute, and the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", default="A", help="one-letter codes")
    parser.add_argument("--caps", default="ace-nme", help="ends of the peptide")
    parser.add_argument("--cutoff", type=float, default=None, help="in nm; none if not given")
    parser.add_argument("--force-field", nargs="+", default=["ff99"])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, default=None, help="the core to stay on; the first one allowed if not given")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if arguments.core is None else arguments.core})
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start, this process on one of them")

    import jax
    import numpy as np
    import openmm

    from boltzflow.chemistry.force_field import compile_system
    from boltzflow.targets import peptide

    force_field = arguments.force_field[0] if len(arguments.force_field) == 1 else arguments.force_field
    target = peptide(arguments.sequence, force_field, caps=arguments.caps, cutoff=arguments.cutoff)
    system = openmm.XmlSerializer.deserialize(target.system)
    field = compile_system(system)
    noise = 0.005 * np.random.default_rng(0).standard_normal((arguments.batch, target.n_particles, 3))
    frames = target.structure + noise

    jobs, compiling = {}, {}
    for dtype in ("float32", "float64"):
        seconds, jobs[f"compiled, {dtype}"] = compiled(field, frames, dtype)
        compiling[f"compiled, {dtype}"] = seconds
    for platform in ("Reference", "CPU"):
        context = make_context(openmm, system, platform)
        jobs[f"OpenMM {platform}, per configuration"] = lambda context=context: by_openmm(context, frames)
    stepping = make_context(openmm, system, "Reference")
    stepping.setPositions(target.structure)
    jobs["OpenMM Reference, per step"] = lambda: stepping.getIntegrator().step(len(frames))

    times = take_turns(jobs, arguments.rounds)
    slow = times["OpenMM Reference, per configuration"][0], times["OpenMM Reference, per step"][0]
    print(f"{target.fingerprint}, batch {len(frames)}, {arguments.rounds} rounds, µs per configuration")
    print(f"{'':38s}{'wall':>8s}{'(least to most)':>20s}{'CPU':>8s}{'compile s':>11s}{'faster than Reference':>24s}")
    for label, (wall, cpu) in ((label, summary(values, len(frames))) for label, values in times.items()):
        median = statistics.median(times[label][0])
        ratios = " and ".join(f"{statistics.median(other) / median:.2f}" for other in slow)
        seconds = f"{compiling[label]:.1f}" if label in compiling else ""
        spread = f"({wall[1]:.2f} to {wall[2]:.2f})"
        print(f"{label:38s}{wall[0]:8.2f}{spread:>20s}{cpu:8.2f}{seconds:>11s}{ratios:>24s}")

    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            print_limit(field, target.n_particles, dtype)


def compiled(field, frames, dtype):
    """Seconds of tracing and compiling energy and gradient of a batch, and the program on these frames."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(dtype == "float64"):
        positions = jnp.asarray(frames, dtype)
        began = time.perf_counter()
        program = jax.jit(jax.vmap(jax.value_and_grad(field.energy))).lower(positions).compile()
        return time.perf_counter() - began, lambda: jax.block_until_ready(program(positions))


def make_context(openmm, system, platform):
    """A context of one thread; steps are so short that a molecule stays where it was."""
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(1e-5)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)


def by_openmm(context, frames) -> None:
    for x in frames:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        state.getPotentialEnergy()
        state.getForces(asNumpy=True)


def take_turns(jobs, rounds):
    """Wall and CPU seconds of each job in each round, the mean over the calls that fill a tenth of a second.

    The first call of a turn is not counted: it finds the caches as another job left them.
    """
    times = {label: ([], []) for label in jobs}
    for _ in range(rounds):
        for label, job in jobs.items():
            job()
            wall, cpu, calls = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - wall < 0.1:
                job()
                calls += 1
            times[label][0].append((time.perf_counter() - wall) / calls)
            times[label][1].append((time.process_time() - cpu) / calls)
    return times


def summary(times, count):
    """Median, least and most wall time, and median CPU time, in microseconds per configuration."""
    wall, cpu = ([1e6 * value / count for value in values] for values in times)
    return (statistics.median(wall), min(wall), max(wall)), statistics.median(cpu)


def print_limit(field, n, dtype) -> None:
    """Counts of XLA over measured rates."""
    import jax
    import jax.numpy as jnp

    size = 64  # one chunk, so that XLA, which counts the body of a loop once, counts everything
    written = jax.jit(jax.vmap(jax.value_and_grad(field.energy))).lower(jnp.zeros((size, n, 3), dtype))
    counted = written.cost_analysis()
    operations, functions = counted["flops"] / size, counted["transcendentals"] / size
    done = written.compile().cost_analysis()["flops"] / size
    x = jnp.linspace(0.5, 1.5, 8192, dtype=dtype)

    def chains(x):
        """64 multiplications and additions in each of 8 chains, so that none waits for another."""
        found = [x + i for i in range(8)]
        for _ in range(64):
            found = [y * x + 0.25 for y in found]
        return sum(found)

    rate = 8 * 64 * 2 * x.size / fastest(jax.jit(chains), x)
    each = {name: fastest(jax.jit(repeated(name)), x) / (8 * x.size) for name in _FUNCTIONS}
    mean = statistics.mean(each.values())
    print(
        f"limit in {dtype}: {operations:.0f} operations at {rate / 1e9:.0f} GFLOP/s and {functions:.0f} transcendental functions of "
        f"{1e9 * mean:.2f} ns, the mean of {', '.join(f'{name} {1e9 * value:.2f}' for name, value in each.items())}: "
        f"{1e6 * operations / rate:.2f} + {1e6 * functions * mean:.2f} µs; the compiled program does {done:.0f} operations"
    )


def repeated(name):
    """A function of eight arguments near each other, so that little time goes to loading and storing."""
    import jax
    import jax.numpy as jnp

    function = jax.lax.rsqrt if name == "rsqrt" else getattr(jnp, name)
    return lambda x: sum(function(x + 0.125 * i) for i in range(8))


def fastest(program, x) -> float:
    """Seconds of the fastest of many calls: a rate is a property of the core, not of its other work."""
    import jax

    jax.block_until_ready(program(x))
    best = float("inf")
    for _ in range(300):
        began = time.perf_counter()
        jax.block_until_ready(program(x))
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main()
