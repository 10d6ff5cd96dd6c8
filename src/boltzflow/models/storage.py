"""The files of trained models: safetensors with the configuration, and a card that says how they were made."""

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from boltzflow import files
from boltzflow.config import Flow, Network, Precision, Projection, RunConfig, fields_of
from boltzflow.config import io as config_io
from boltzflow.errors import CheckpointError, TargetError, nearest
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.build import build_flow
from boltzflow.flows.identity import hash_of_weights, named_arrays
from boltzflow.models.model import Model
from boltzflow.targets import Target, molecule_folder

MODEL_FILE = "model.safetensors"
# Options that decide the shapes of parameters.
_SHAPES = "layers depth hidden radial channels typed_pairs width bins blocks augmented features scaling".split()


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by the names that they have in the file."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in paths}


def save_model(path: Path, flow: AbstractFlow, config: RunConfig, target: Target, card: dict[str, Any]) -> None:
    """Writes the parameters to `path` and the card beside it as .json; each file appears whole or not at all.

    Args:
        path: the safetensors file.
        flow: the flow to save.
        config: configuration from which the flow is built again.
        target: the target; its fingerprint is stored.
        card: how the model was made.
    """
    from safetensors.numpy import save

    metadata = {
        "format": "boltzflow-model-1",
        "config": config_io.dump(config),
        "fingerprint": target.fingerprint,
        "scale": repr(flow.scale),
    }
    content = sorted_header(save(named_arrays(flow.network), metadata=metadata))
    text = json.dumps({"target": config.target, "fingerprint": target.fingerprint, **card}, indent=2) + "\n"
    for file, data in ((path, content), (path.with_suffix(".json"), text.encode())):
        files.replace(file, data)


def load_model(name: str | os.PathLike[str], *, target: Target | None = None) -> Model:
    """Loads a shipped model by its name, or the model of a run by its folder or its safetensors file.

    Args:
        name: name or path.
        target: the target, for models of targets that are not registered.

    Raises:
        CheckpointError: if there is no such model, or its file is damaged or belongs to another network.
        TargetError: if the target is not registered and not given, or not the one the model was trained for.
    """
    path, run = _find_model(name)
    config, metadata, arrays = _read(path)
    if target is None:
        target = molecule_folder.target_of(config.target, path.parent, owner=f"the model in {path} was trained for")
    if metadata["fingerprint"] != target.fingerprint:
        raise TargetError(f"the model in {path} was trained for {metadata['fingerprint']}, not for {target.fingerprint}.")
    # Shapes only: the parameters come from the file.
    scale = float(metadata["scale"])
    flow = eqx.filter_eval_shape(lambda key: build_flow(config.flow, target, scale, key=key), jax.random.key(0))
    flow = flow.with_network(_with_arrays(flow.network, arrays, path))
    return Model(str(name), flow, config, target, _card(path.with_suffix(".json")), run)


def precision_of(name: str | os.PathLike[str]) -> Precision:
    """The precision that a model was trained in, which is that of its samples unless said otherwise.

    Raises:
        CheckpointError: as `load_model`.
    """
    return _read(_find_model(name)[0])[0].precision


def weights_of(path: Path) -> str | None:
    """The hash of the weights in a model file, as samples and figures of it store it (`flows.identity`); None where there is no file.

    Raises:
        CheckpointError: if the file is damaged.
    """
    if not path.is_file():
        return None
    _, metadata, arrays = _read(path)
    return hash_of_weights(arrays, float(metadata["scale"]))


def with_parameters_of(flow: AbstractFlow, name: str | os.PathLike[str]) -> AbstractFlow:
    """The flow with the parameters of a trained model, which may be one of another target.

    Args:
        flow: the flow; its network must have the model's parameters in number and shape.
        name: name or path of the model, as for `load_model`.

    Raises:
        CheckpointError: if there is no such model, its file is damaged, or its network is another.
    """
    path, _ = _find_model(name)
    config, _, arrays = _read(path)
    shapes = jax.eval_shape(lambda: eqx.filter(flow.network, eqx.is_inexact_array))
    template = eqx.combine(shapes, eqx.filter(flow.network, eqx.is_inexact_array, inverse=True))
    try:
        network = _with_arrays(template, arrays, path)
    except CheckpointError as error:
        options = " ".join(f"{name}={value}" for name, value in _sizes(config.flow).items())
        raise CheckpointError(
            f"training cannot start from the model {str(name)!r}, whose network is another ({options}); choose these options, or another "
            "model."
        ) from error
    return flow.with_network(network)


def _sizes(flow: Flow) -> dict[str, Any]:
    """Options of a flow that its network hangs on, by dotted name."""
    found: dict[str, Any] = {"flow": flow.variant}
    for name, value in ((name, getattr(flow, name)) for name in fields_of(type(flow))):
        if isinstance(value, Network | Projection):
            found[f"flow.{name}"] = value.variant
            found |= {f"flow.{name}.{option}": getattr(value, option) for option in fields_of(type(value)) if option in _SHAPES}
        elif name in _SHAPES:
            found[f"flow.{name}"] = value
    return found


def shipped_models() -> dict[str, Path]:
    """Files of the models that ship with the package, by name."""
    folder = Path(str(resources.files("boltzflow") / "pretrained"))
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def _find_model(name: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """The file of a model, and its run folder if it was named by that."""
    path = files.named(name, "the name of the model")
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise CheckpointError(f"{path} holds no trained model yet; finish it with `boltzflow resume {path}`.")
        return path / MODEL_FILE, path
    if path.is_file():
        return path, None
    shipped = shipped_models()
    if str(name) not in shipped:
        raise CheckpointError(f"there is no model or run folder {str(name)!r}; {nearest(str(name), shipped)}")
    return shipped[str(name)], None


def _card(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the model card {path} is damaged; restore it, or delete it to use the model without it.") from error


def sorted_header(content: bytes) -> bytes:
    """Safetensors with its header sorted: the writer orders the metadata at random, but the same model should be the same file."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _read(path: Path) -> tuple[RunConfig, dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the handle is no mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the model file {path} is damaged or no safetensors file ({error}).") from error
    if metadata.get("format") != "boltzflow-model-1":
        raise CheckpointError(f"{path} is a safetensors file but no boltzflow model; use one that `boltzflow train` has written.")
    return config_io.loads(metadata["config"], str(path)), metadata, arrays


def _with_arrays(field: PyTree, arrays: dict[str, np.ndarray], path: Path) -> PyTree:
    parameters, static = eqx.partition(field, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    expected = _named(parameters)
    if {name: leaf.shape for name, leaf in expected.items()} != {name: a.shape for name, a in arrays.items()}:
        raise CheckpointError(
            f"the parameters in {path} do not fit the network that its configuration names; the file is of another version."
        )
    values = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in expected.items()]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(parameters), values), static)
