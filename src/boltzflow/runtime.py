"""How JAX runs: precision, virtual devices, and the cache of compiled programs on disk.

Called by the command line, never at import: a library does not change the process it is loaded into.
"""

import contextlib
import hashlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from boltzflow.errors import ConfigError

CACHE_VARIABLE = "BOLTZFLOW_CACHE"


def configure(precision: Literal["single", "double"] = "single", devices: int = 1) -> None:
    """Sets the floating-point precision, the number of CPU devices and the compile cache of this process.

    Args:
        precision: "double" makes arrays float64 unless they say otherwise.
        devices: devices that training will share its batches over. On a machine without an accelerator that many virtual CPU devices
            are made; where there are accelerators, or for 0 (all there are), nothing is changed.

    Raises:
        ConfigError: if JAX is already in use with fewer CPU devices, or the devices that JAX_PLATFORMS names are not there.
    """
    # XLA's loader of cached programs reports tuning hints ("prefer-no-gather") as missing processor features, at great length.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", precision == "double")
    if devices > 1 and jax.config.jax_num_cpu_devices < devices:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            jax.config.update("jax_num_cpu_devices", devices)
        except RuntimeError as error:
            raise ConfigError(
                f"run.devices is {devices}, but JAX is already running in this process with fewer CPU devices; start a new process."
            ) from error
    _require_device()
    folder = compile_cache()
    if folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Programs that compile faster than this are not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # An entry that a killed process left half-written is compiled anew; JAX's warning about it helps nobody.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache.*", category=UserWarning)


@contextlib.contextmanager
def precision(name: Literal["single", "double"]) -> Iterator[None]:
    """Double precision while the block runs, in all threads of this process; "single" changes nothing.

    A run that was asked for in double precision from Python is trained, evaluated and sampled in it, whatever the process is set to. The
    switch is that of the whole process and not that of the thread (`jax.enable_x64`), because batches and chunks of samples are made in
    threads; it is put back at the end.

    Args:
        name: "single" or "double".
    """
    import jax

    before = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    if name == "single" or before:
        yield
        return
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def in_double() -> bool:
    """Whether this process computes in double precision."""
    import jax

    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def available_cores() -> int:
    """Processor cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def cache_folder() -> Path:
    """The folder for what can be made again: $BOLTZFLOW_CACHE, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("boltzflow"))


def compile_cache() -> Path | None:
    """A writable folder for programs compiled on this kind of machine; None where there is none.

    Programs are compiled for the very processor, and a home folder may be shared by machines of different kinds, so each kind has a
    folder of its own.
    """
    folder = cache_folder() / "compiled" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _machine() -> str:
    """A short name for this kind of processor: the architecture and a hash of its features."""
    features = platform.system()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += "".join(next((line for line in lines if line.startswith(start)), "") for start in ("model name", "flags", "Features"))
    except OSError:
        pass
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _require_device() -> None:
    """Makes sure that there are the devices that the user has asked for; JAX itself fails on them in many ways, and late."""
    import jax

    asked = os.environ.get("JAX_PLATFORMS")
    if not asked:
        return
    try:
        jax.devices()
    except Exception as error:
        raise ConfigError(
            f"JAX cannot compute on what JAX_PLATFORMS={asked} names; unset that variable to use what there is, or install JAX for that "
            "device."
        ) from error


def become_worker() -> None:
    """Makes this process a worker of the one that started it: deaf to Ctrl-C, which reaches both, and ended when the other one is gone.

    A parent that is killed cannot end its workers, and each of them keeps the queue of the others open, so that they would wait for ever.
    """
    import multiprocessing
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="boltzflow-parent").start()
