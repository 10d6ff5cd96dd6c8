"""Draws samples from a flow in chunks: compiled, on all cores, streamed to disk, resumable."""

import collections
import concurrent.futures
import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from boltzflow import seeds, shards
from boltzflow.errors import DataError, RunError
from boltzflow.flows.base import AbstractFlow, FlowSolution
from boltzflow.flows.identity import identity
from boltzflow.flows.status import Status
from boltzflow.progress import Progress, Wanted, chosen
from boltzflow.runtime import available_cores
from boltzflow.sampling import devices as several
from boltzflow.sampling import tuning
from boltzflow.sampling.chunk_farm import Farm, farmed
from boltzflow.sampling.enantiomers import with_right_enantiomer
from boltzflow.sampling.programs import stored
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target

T = TypeVar("T")

MOST = 2**31 - 1
"""Samples of one seed, whose keys are made of 32-bit integers."""


@stored
def draw(flow: AbstractFlow, keys: Key[Array, " B"]) -> FlowSolution:
    """A chunk of samples, one key each."""
    return jax.vmap(lambda key: flow.sample_and_log_prob(key=key))(keys)


@stored
def density(flow: AbstractFlow, positions: Float[Array, "B N D"], keys: Key[Array, " B"]) -> FlowSolution:
    """Log densities of a chunk of configurations, one key each (used by the Hutchinson estimate only)."""
    return jax.vmap(lambda x, key: flow.log_prob(x, key=key))(positions, keys)


@stored
def marginals(flow: AbstractFlow, positions: Float[Array, "B N D"], keys: Key[Array, " B"]) -> Float[Array, "B K"]:
    """Draws of the density of a chunk of configurations, one key each; see `AbstractFlow.log_importance_ratios`."""
    return jax.vmap(lambda x, key: flow.log_importance_ratios(x, count=flow.noisy_draws, key=key))(positions, keys)


def sample_keys(start: int, count: int, *, seed: int) -> Key[Array, " n"]:
    """Keys of the samples start, start + 1, ...; they depend on seed and index alone, so that chunks do not change the samples."""
    key = seeds.key(seed)
    # Made on the host: JAX would compile a sum for the first start that is not 0.
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(np.arange(start, start + count)))


def seconds_of_chunk(flow: AbstractFlow, chunk: int) -> float:
    """What a compiled call for so many samples takes."""
    keys = sample_keys(0, chunk, seed=0)
    jax.block_until_ready(draw(flow, keys))
    began = time.perf_counter()
    jax.block_until_ready(draw(flow, keys))
    return time.perf_counter() - began


def in_chunks(
    work: Callable[[int, int], T],
    start: int,
    stop: int,
    chunk: int,
    *,
    workers: int | None = None,
    places: Sequence[Any] = (),
) -> Iterator[tuple[int, T]]:
    """Yields (end, work(begin, chunk)) in order, with as many chunks under way as there are cores.

    Chunks are independent programs; running several at once uses the cores better than splitting the small operations of one. They begin
    at multiples of their size wherever the work does, but for the first, so that a sample has the same place in its chunk in any shard.
    Several `places` take the chunks in turn.
    """
    workers = available_cores() if workers is None else workers
    # The precision of the caller, who may have set it for a block of code only; threads do not inherit that.
    double = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def run(begin: int) -> T:
        with jax.enable_x64(double), several.on(places, begin // chunk):
            return work(begin, chunk)

    pending: collections.deque[tuple[int, concurrent.futures.Future[T]]] = collections.deque()
    begins = iter([*range(start, min(start + 1, stop)), *range((start // chunk + 1) * chunk, stop, chunk)])
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            while True:
                while len(pending) < workers and (begin := next(begins, None)) is not None:
                    pending.append((begin, pool.submit(run, begin)))
                if not pending:
                    return
                begin, future = pending.popleft()
                yield min((begin // chunk + 1) * chunk, stop), future.result()
        finally:
            for _, future in pending:
                future.cancel()


def generate(
    flow: AbstractFlow,
    target: Target,
    n: int,
    *,
    seed: int,
    chunk: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Wanted = False,
    model: str = "",
    shard: tuple[int, int] | None = None,
    devices: int | None = None,
    remote: Farm | None = None,
) -> Samples:
    """Draws n samples with their log densities, reduced energies and weights; the energies are those of the positions that are stored.

    Args:
        flow: the flow.
        target: the target whose reduced energy weighs the samples.
        n: number of samples.
        seed: sample i depends on the seed and on i alone.
        chunk: samples per compiled call; None: that of the flow.
        out: file to stream to; what is written stays valid if the process is killed.
        resume: continue the file `out`.
        progress: told how many samples are done; nobody unless asked for.
        model: name of the model, stored with the samples.
        shard: (k, K): only the k-th of K parts of the n samples, counted from 1; see `boltzflow.shards`.
        devices: local devices that draw a chunk each at the same time; None: all accelerators, and of a processor its cores.
        remote: workers that draw the chunks instead of this process; the samples are the same.

    Returns:
        n samples, or those of the shard; those found in a continued file included; a file that holds more keeps them.

    Raises:
        DataError: if n is not positive, or more than can be numbered.
        ConfigError: if there is no such shard, or there are fewer devices.
        RunError: if `out` cannot be written, or holds other samples; or the workers are gone or not fit to draw them.
    """
    seed = seeds.checked(seed)
    if n < 1 or (chunk is not None and chunk < 1):
        given = n if chunk is None else f"{n} and {chunk}"
        raise DataError(f"the numbers of samples and of samples per chunk must be positive, got {given}.")
    if n > MOST:
        raise DataError(f"samples are numbered by 32-bit integers, so that there can be {MOST} of one seed, but {n} were asked for.")
    bar = chosen(progress)
    if chunk is None:
        chunk = flow.chunk_size if remote is not None else tuning.chunk_size(flow, n, functools.partial(seconds_of_chunk, flow))
    chunk = min(chunk, n)
    first, stop = (0, n) if shard is None else shards.bounds(n, shard)
    meta = origin(flow, target, model, seed=seed) | ({} if shard is None else {shards.META: shards.described(n, shard)})
    began = time.perf_counter()
    mesh = None if remote is not None else several.mesh(devices, -(-(stop - first) // chunk))
    chunk *= several.size(mesh)

    def work(begin: int, count: int) -> Samples:
        return chunk_of(flow, target, (begin, stop), count, meta, seed=seed, mesh=mesh)

    def chunks(begin: int, end: int) -> Iterator[tuple[int, Samples]]:
        if remote is not None:
            return farmed(remote, begin, end, chunk, meta, (target.n_particles, target.dimension))
        return in_chunks(work, begin, end, chunk, workers=_workers(mesh))

    parts: list[Samples] = []
    bar.start(stop - first, "sampling")
    try:
        if out is None:
            for done, part in chunks(first, stop):
                parts.append(part)
                bar.update(done - first)
            samples = Samples.concatenate(parts)
        else:
            samples = streamed(chunks, stop - first, Path(out), meta, resume, bar, target, first=first)
    finally:
        bar.stop()
    seconds = time.perf_counter() - began
    return dataclasses.replace(samples, meta={**samples.meta, "seconds": samples.meta.get("seconds", seconds)})


def chunk_of(
    flow: AbstractFlow,
    target: Target,
    bounds: tuple[int, int],
    count: int,
    meta: Mapping[str, Any],
    *,
    seed: int,
    mesh: jax.sharding.Mesh | None = None,
) -> Samples:
    """The samples of a chunk between two samples, which are drawn whole and cut, so that one program serves all chunks.

    Args:
        flow: the flow.
        target: the target.
        bounds: the first, and one behind the last that are wanted at most.
        count: samples of a chunk; chunks begin at multiples of it.
        meta: of the samples.
        seed: of the samples.
        mesh: local devices that share the chunk; None: one.
    """
    begin, stop = bounds
    base = begin // count * count
    drawn = to_samples(_on(draw, mesh, flow, sample_keys(base, count, seed=seed)), flow.scale, dict(meta))
    kept = drawn.take(np.arange(begin - base, min(count, stop - base)))
    return with_right_enantiomer(kept, flow, target, batch=count, mesh=mesh)


def _on(function: Callable[..., FlowSolution], mesh: jax.sharding.Mesh | None, flow: AbstractFlow, *columns: Any) -> Any:
    """What a compiled function of a flow and of columns gives, on one device or on those of a mesh."""
    return function(flow, *columns) if mesh is None else several.over(inspect.unwrap(function), mesh, flow, *columns)


def _workers(mesh: jax.sharding.Mesh | None) -> int | None:
    """Chunks under way: while devices draw one, the host looks after the one before."""
    return None if mesh is None else 2


def origin(flow: AbstractFlow, target: Target, model: str, *, seed: int) -> dict[str, Any]:
    """The meta of samples: where they come from."""
    return {
        "target": target.name,
        "fingerprint": target.fingerprint,
        "units": target.units,
        "model": model,
        "seed": seed,
        **({} if target.has_energy else {"energy": False}),
        **{name: text for name, text in molecule_folder.texts(target).items() if text},
        **identity(flow),
    }


def streamed(
    chunks: Callable[[int, int], Iterator[tuple[int, Samples]]],
    n: int,
    out: Path,
    meta: dict[str, Any],
    resume: bool,
    progress: Progress,
    target: Target,
    *,
    first: int = 0,
) -> Samples:
    """The n samples from `first` on, made chunk by chunk, by way of a file; what is in it is not made again.

    `chunks` gives (end, samples) of the chunks between two samples.
    """
    with SamplesWriter(out, meta, resume=resume) as writer:
        append_all(writer, ((end - first, part) for end, part in chunks(first + writer.n_written, first + n)), n, progress.update)
    return Samples.load(out, target).take(slice(0, n))


def append_all(writer: SamplesWriter, parts: Iterator[tuple[int, Samples]], n: int, tell: Callable[[int], None]) -> None:
    """Appends parts of n samples as they come, some seconds' at once, and tells how many are done; Ctrl-C keeps those that are."""
    mark = time.perf_counter()
    waiting: list[Samples] = []
    try:
        for done, part in parts:
            waiting.append(part)
            now = time.perf_counter()
            # Every append is a file of its own, so that appends come by time rather than by chunk.
            if now - mark > 10.0 or done >= n:
                # Not once more if Ctrl-C comes in between.
                ready, waiting = waiting, []
                append(writer, ready, now - mark)
                mark = now
            tell(done)
    except KeyboardInterrupt:
        if waiting:
            append(writer, waiting, time.perf_counter() - mark)
        raise


def append(writer: SamplesWriter, waiting: list[Samples], seconds: float) -> None:
    """Appends parts at once, which have taken some seconds together; where the disk lacks room for all of them, those that fit.

    Raises:
        RunError: if not all could be written.
    """

    def write(parts: list[Samples]) -> None:
        block = Samples.concatenate(parts)
        writer.append(dataclasses.replace(block, meta={**block.meta, "seconds": seconds * len(parts) / len(waiting)}))

    try:
        write(waiting)
    except RunError:
        half = len(waiting) // 2
        if not half:
            raise
        append(writer, waiting[:half], seconds * half / len(waiting))
        append(writer, waiting[half:], seconds * (len(waiting) - half) / len(waiting))


def to_samples(solution: FlowSolution, scale: float, meta: dict[str, Any]) -> Samples:
    """Samples on the host from a chunk of solutions, their energies unknown (NaN); path lengths in the target's units."""
    host = jax.tree.map(np.asarray, solution)
    return Samples(
        positions=host.positions,
        log_q=host.log_q,
        u=np.full(len(host.positions), np.nan),
        status=host.status,
        nfe=host.nfe,
        path_length=host.path_length * scale,
        meta=meta,
    )


def log_density(
    flow: AbstractFlow,
    positions: Float[np.ndarray, "n N D"],
    *,
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
    progress: Wanted = False,
    devices: int | None = None,
) -> FlowSolution:
    """Log densities of configurations in data units, on the host; the columns of the result are NumPy arrays of length n."""
    return _over_positions(density, flow, positions, chunk, progress, devices, seed=seed, first=first)


def log_importance_ratios(
    flow: AbstractFlow,
    positions: Float[np.ndarray, "n N D"],
    *,
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
    progress: Wanted = False,
    devices: int | None = None,
) -> Float[np.ndarray, "n K"]:
    """Draws of the log densities of configurations in data units, on the host; the mean of their exponentials is the density.

    There are `flow.noisy_draws` of each, log q(x, a) - log pi(a|x) of an augmented flow; those of configuration i depend on the seed and
    on `first` + i alone. One, the log density itself, where that is exact; NaN where it could not be computed.
    """
    if not flow.noisy_draws:
        solution = log_density(flow, positions, seed=seed, first=first, chunk=chunk, progress=progress, devices=devices)
        return np.where(solution.status == Status.SOLVED, np.asarray(solution.log_q, np.float64), np.nan)[:, None]
    return np.asarray(_over_positions(marginals, flow, positions, chunk, progress, devices, seed=seed, first=first))


def _over_positions(
    function: Callable[..., Any],
    flow: AbstractFlow,
    positions: Float[np.ndarray, "n N D"],
    chunk: int | None,
    progress: Wanted,
    devices: int | None,
    *,
    seed: int,
    first: int = 0,
) -> Any:
    """Results of a compiled function of positions and keys, chunk by chunk; the last chunk is filled up and cut."""
    bar = chosen(progress)
    n = len(positions)
    chunk = min(flow.chunk_size if chunk is None else chunk, n)

    mesh = several.mesh(devices, -(-n // chunk)) if n else None
    chunk *= several.size(mesh)

    def one(begin: int, count: int) -> Any:
        part = positions[begin : begin + count]
        kept = len(part)
        padded = np.concatenate([part, np.repeat(part[-1:], count - kept, axis=0)]) if kept < count else part
        keys = sample_keys(first + begin, count, seed=seed)
        result = _on(function, mesh, flow, jnp.asarray(padded, jnp.zeros(()).dtype), keys)
        return jax.tree.map(lambda a: np.asarray(a)[:kept], result)

    parts = []
    bar.start(n, "log density of data")
    try:
        for done, part in in_chunks(one, 0, n, chunk, workers=_workers(mesh)):
            parts.append(part)
            bar.update(done)
    finally:
        bar.stop()
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
