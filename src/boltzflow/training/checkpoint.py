"""Checkpoints of the training state: written atomically by orbax, verified when they are read."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from boltzflow import cluster, extras, files
from boltzflow.errors import CheckpointError, RunError


class Checkpoints:
    """The checkpoints of one run, newest last; orbax makes each appear whole or not at all and keeps the newest few.

    A checksum of all arrays is stored beside them, because a file that was cut or changed later is not noticed by its reader.
    """

    def __init__(self, folder: Path, *, keep: int, identity: str, keep_steps: Sequence[int] = ()) -> None:
        """Opens the folder, which is made if need be.

        Args:
            folder: where the checkpoints lie.
            keep: how many are kept.
            identity: what the run is; a checkpoint of another identity is refused.
            keep_steps: steps whose checkpoints are kept whatever comes after them.
        """
        with extras.of("train", "training"):
            import orbax.checkpoint as ocp

        # Orbax logs every step of its work; what goes wrong it raises, and that is told here.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._ocp = ocp
        self._identity = identity
        policies = ocp.checkpoint_managers.preservation_policy
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), policies.CustomSteps(list(keep_steps))])
        self._folder = folder.absolute()
        alone: dict[str, Any] = {}
        if cluster.joined():
            # Orbax would wait for the other processes, which have nothing to write.
            only = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="boltzflow")
            alone = {"multiprocessing_options": only, "create": False}
            self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(preservation_policy=kept, enable_async_checkpointing=False, **alone)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Writes one checkpoint.

        Raises:
            RunError: if it cannot be written; the checkpoints before it stay.
        """
        arrays = _to_arrays(state)
        meta = {**meta, "identity": self._identity, "checksum": _checksum(arrays)}
        try:
            self._manager.save(
                step,
                args=self._ocp.args.Composite(state=self._ocp.args.StandardSave(arrays), meta=self._ocp.args.JsonSave(meta)),
                force=True,
            )
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise RunError(
                f"the checkpoint of step {step} cannot be written ({files.reason(error)}); the one before it is whole."
            ) from error

    def restore(self, like: Callable[[dict[str, Any]], PyTree], warn: Any) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest checkpoint that is whole and belongs to this run, or None if there is no checkpoint at all.

        Args:
            like: gives a state of the same structure, from what was saved beside it.
            warn: called with one sentence for each checkpoint that is passed over; those are moved to the folder `...-refused`.

        Raises:
            CheckpointError: if there are checkpoints but none can be used.
        """
        refused: dict[int, CheckpointError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(step, like)
            except CheckpointError as error:
                refused[step] = error
                continue
            for newer, error in refused.items():
                warn(f"{error} The one before it is used.")
                self._set_aside(newer)
            return found
        if refused:
            raise CheckpointError(
                "no checkpoint of this run can be used, so restore one or train anew in another folder; the newest was refused because "
                f"{next(iter(refused.values()))}"
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Moves a refused checkpoint out of the way of the one that will take its step; nothing of it is deleted."""
        aside = self._folder.with_name(f"{self._folder.name}-refused")
        try:
            aside.mkdir(exist_ok=True)
            free = next(aside / name for name in (f"{step}-{count}" for count in itertools.count(1)) if not (aside / name).exists())
            (self._folder / str(step)).rename(free)
        except OSError as error:
            raise RunError(f"the refused checkpoint of step {step} cannot be moved to {aside} ({error.strerror}); move it away.") from error
        self._manager.reload()

    def _read(self, step: int, like: Callable[[dict[str, Any]], PyTree]) -> tuple[PyTree, dict[str, Any]]:
        template = None
        try:
            # The metadata comes first and alone: the arrays of a foreign checkpoint have other shapes.
            meta = self._manager.restore(step, args=self._ocp.args.Composite(meta=self._ocp.args.JsonRestore()))["meta"]
            arrays = {}
            foreign = meta["identity"] != self._identity
            if not foreign:
                template = like(meta)
                abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in _to_arrays(template).items()}
                restored = self._manager.restore(
                    step, args=self._ocp.args.Composite(state=self._ocp.args.StandardRestore(_as_numpy(abstract)))
                )
                arrays = {name: np.asarray(a) for name, a in restored["state"].items()}
        except RunError:
            # The checkpoint is sound, but what is wanted of it is not what it holds.
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise CheckpointError(
                f"the checkpoint of step {step} is damaged, incomplete or of another version of boltzflow ({type(error).__name__})."
            ) from error
        if foreign:
            raise CheckpointError(f"the checkpoint of step {step} belongs to another run ({meta['identity']}, not {self._identity}).")
        if _checksum(arrays) != meta["checksum"]:
            raise CheckpointError(f"the checkpoint of step {step} is damaged: its checksum does not match.")
        leaves, structure = jax.tree.flatten(template)
        values = [jax.numpy.asarray(arrays.get(_name(index), leaf), leaf.dtype) for index, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, values), meta

    def close(self) -> None:
        """Releases what orbax holds."""
        self._manager.close()


def _as_numpy(abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    return {name: np.empty(a.shape, a.dtype) for name, a in abstract.items()}


def _name(index: int) -> str:
    return f"{index:05d}"


def _to_arrays(state: PyTree) -> dict[str, np.ndarray]:
    """What is written: orbax refuses arrays without elements, which the template brings back."""
    return {_name(index): array for index, leaf in enumerate(jax.tree.leaves(state)) if (array := np.asarray(leaf)).size}


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
