"""Rewrites the configuration that a model stores from before runs were lists of stages.

    python tools/rewrite_configs.py FILE.safetensors...

Parameters, fingerprint and scale stay as they are. The shipped models were rewritten by it; presets were written anew by hand, and are the
same as what it makes of the former ones.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save

from boltzflow import files
from boltzflow.config import io as config_io
from boltzflow.models.storage import sorted_header

# Defaults of the former options that are not those of the present ones, or have no counterpart.
_FLOW = {"family": "ecnf", "network": "egnn", "layers": 3, "radial": 0, "reach": 6.0, "scale": None, "solver": {}, "coupling": {}}
_TRAINING = {"steps": 10_000, "optimiser": "adam"}
_REFINEMENT = {"steps": 0, "batch_size": 64, "microbatch": 16, "learning_rate": 2e-4, "final_learning_rate": 1e-6, "warmup_steps": 10}
_REFINEMENT |= {"ema_decay": 0.95}
_RATES = "learning_rate final_learning_rate warmup_steps weight_decay clip_norm clip_median skip_median ema_decay"
_RUN = "start_from seed devices log_every checkpoint_every keep_checkpoints evaluate_every evaluate_n tensorboard"


def rewritten(old: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of today from one of before."""
    flow = {**_FLOW, **old.get("flow", {})}
    training = {**_TRAINING, **old.get("training", {})}
    refinement = {**_REFINEMENT, **old.get("refinement", {})}
    coupling = flow["family"] == "eacf"
    new = {name: old[name] for name in ("target", "precision", "description") if name in old}
    data = dict(old.get("data", {}))
    if data.get("path") is not None:
        data = _only(data, "path validation split_seed allow_virial_mismatch")
    run = _only(training, _RUN)
    if not run.get("evaluate_every"):
        run.pop("evaluate_n", None)
    stages = [_stage(_objective(old.get("objective", {}), coupling), training, training)]
    if refinement["steps"]:
        stages.append(_stage(_refinement(refinement, coupling), {**training, **_only(refinement, _RATES)}, refinement))
    return {**new, "data": data, "flow": _eacf(flow) if coupling else _ecnf(flow), "stages": stages, "run": run}


def _only(section: Mapping[str, Any], names: str) -> dict[str, Any]:
    return {name: section[name] for name in names.split() if name in section}


def _stage(objective: dict[str, Any], optimiser: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    rates = _only(optimiser, _RATES)
    return {"objective": objective, "optimiser": {optimiser["optimiser"]: rates}, **_only(sizes, "steps batch_size microbatch")}


def _objective(old: Mapping[str, Any], coupling: bool) -> dict[str, Any]:
    if coupling:
        return {"augmented-likelihood": _only(old, "collinearity")}
    if old.get("method") == "maximum-likelihood":
        return {"maximum-likelihood": _only(old, "nodes divergence")}
    pairing = old.get("pairing", "equivariant-optimal-transport")
    options = _only(old, "full_cost") if pairing == "equivariant-optimal-transport" else {}
    return {"flow-matching": {**_only(old, "path sigma late_time"), "pairing": {pairing: options}}}


def _refinement(old: Mapping[str, Any], coupling: bool) -> dict[str, Any]:
    direction = {"direction": old["divergence"]} if "divergence" in old else {}
    if coupling:
        return {"augmented-path-gradient": {**direction, **_only(old, "clip")}}
    return {"path-gradient": {**direction, **_only(old, "nodes grading clip")}}


def _ecnf(flow: Mapping[str, Any]) -> dict[str, Any]:
    if flow["network"] == "egnn":
        network = _only(flow, "layers hidden attention radial cutoff")
        if flow["radial"]:
            network["reach"] = flow["reach"]
    else:
        network = _only(flow, "hidden radial reach softening fine_time channels typed_pairs cutoff")
        network["depth"] = flow["layers"]
    return {"ecnf": {"network": {flow["network"]: network}, "solver": _solver(flow["solver"]), "scale": flow["scale"]}}


def _solver(old: Mapping[str, Any]) -> dict[str, Any]:
    method, divergence = old.get("method", "dopri5"), old.get("divergence", "exact")
    names = {"rk4": "steps", "gauss-legendre": "grading"}.get(method, "rtol atol max_steps")
    options = _only(old, names) | {"divergence": {divergence: _only(old, "probes") if divergence == "hutchinson" else {}}}
    if method == "gauss-legendre" and "steps" in old:
        options["nodes"] = old["steps"]
    return {method: options}


def _eacf(flow: Mapping[str, Any]) -> dict[str, Any]:
    old = flow["coupling"]
    name, base = old.get("projection", "spherical"), old.get("base", "normal")
    seen = _only(old, "width radial bins") if name != "none" else {}
    if "reach" in old and name != "none" and old.get("bins", 8):
        seen["extent"] = old["reach"]
    if name == "spherical":
        seen |= _only(old, "mirror")
    options = _only(old, "blocks augmented noise layers features scaling marginal_draws")
    springs = _only(old, "stiffness") if base == "harmonic" else {}
    return {"eacf": {**options, "projection": {name: seen}, "base": {base: springs}, "scale": flow["scale"]}}


def rewrite(path: Path) -> None:
    """Rewrites the configuration in one model file."""
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    old = yaml.safe_load(metadata["config"])
    if "stages" in old:
        print(f"{path}: is of today")
        return
    text = yaml.safe_dump(rewritten(old), sort_keys=False)
    metadata["config"] = config_io.dump(config_io.loads(text, str(path)))
    files.replace(path, sorted_header(save(load_file(path), metadata=metadata)))
    print(f"{path}: rewritten")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
