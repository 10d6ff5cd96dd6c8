"""Trains a preset within a given time on whatever device there is: measures a step, chooses the number of steps, trains, evaluates.

    python tools/train_within.py PRESET --out runs/x [--data frames.h5 | --frames 100000 --chains 4096] [--seconds 300]
        [--refine-steps 0 --refine-seconds 300] [-n 4000] [--bring FOLDER] [--set stages.0.batch_size=512 ...]

Made for accelerators that are lent for minutes. The steps found are printed with the command that repeats the run. A finished run that is
given again with --refine-steps is refined; what is done already is not done again. The program of a refinement takes minutes to compile and
holds the number of its steps, so that they are given rather than found; past --refine-seconds it stops with the model that it has.
--bring copies model, card and metrics to a folder after every stage, so that a time limit does not take them away.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np

from boltzflow import datasets, progress, reference, runtime, targets
from boltzflow.config import RunConfig
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import RunError
from boltzflow.evaluation.figures import evaluate
from boltzflow.flows.build import build_flow
from boltzflow.models.storage import load_model
from boltzflow.training.loop import train
from boltzflow.training.sharding import data_mesh
from boltzflow.training.stages import begun, parts

_PROBED = 30
BEGAN = time.perf_counter()


def say(*words: object) -> None:
    """Prints with the time since the start."""
    print(f"[{time.perf_counter() - BEGAN:6.1f} s]", *words, flush=True)


def frames_of(config: RunConfig, options: argparse.Namespace) -> Dataset:
    """The frames of the file, made first if there is none."""
    target = targets.get(config.target)
    if not options.data.is_file():
        result = reference.sample(target, options.frames, seed=config.data.seed, chains=options.chains)
        result.dataset.save(options.data)
        say("reference:", result.sentence(), json.dumps(result.diagnostics, default=float))
    return datasets.load(options.data, target)


def seconds_per_step(config: RunConfig, frames: Dataset) -> float:
    """Seconds of one step of training, compilation left out."""
    target = targets.get(config.target)
    scale = 1.0 if target.units == "reduced" else float(np.std(frames.positions))
    flow = build_flow(config.flow, target, config.flow.scale or scale, key=jax.random.key(0))
    mesh = data_mesh(config.run.devices, config.stages[0].batch_size, config.stages[0].microbatch)
    part = dataclasses.replace(parts(config, flow, target, mesh)[0], end=_PROBED)
    marks = []
    positions = np.asarray(frames.positions / scale, np.float32)
    for _, metrics, _ in part.steps(begun(part, flow.network, None, mesh), flow.network, positions, mesh, print):
        float(metrics.loss)
        marks.append(time.perf_counter())
    # The first batches come from an empty queue.
    taken = float(np.mean(np.diff(marks)[_PROBED // 3 :]))
    say(f"{taken * 1e3:.1f} ms a step")
    return taken


def bring(run: Path, to: Path | None) -> None:
    """Copies what must last."""
    if to is None:
        return
    to.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "model.json", "config.yaml", "metrics.jsonl", "evaluation.json"):
        if (run / name).is_file():
            shutil.copy(run / name, to / name)


def main() -> None:
    """Runs the stages that are asked for and not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("frames.h5"))
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--chains", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--refine-steps", type=int, default=0)
    parser.add_argument("--refine-seconds", type=float, default=300.0)
    parser.add_argument("-n", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bring", type=Path, default=None)
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    options = parser.parse_args()

    runtime.configure()
    say("devices:", jax.devices())
    stated = options.out / "config.yaml"
    overrides = [f"data.path={options.data}", f"run.checkpoint_every={10**9}", *options.settings]
    config = config_io.apply_overrides(config_io.load_preset(options.preset), overrides)
    frames = frames_of(config, options)
    further = config.stages[1:]
    if stated.is_file():
        config = config_io.load_config(stated)
        say("training is done:", config.stages[0].steps, "steps")
    else:
        plain = dataclasses.replace(config, stages=config.stages[:1])
        steps = max(100, int(options.seconds / seconds_per_step(plain, frames)))
        config = config_io.apply_overrides(plain, [f"stages.0.steps={steps}"])
        say(f"boltzflow train {options.preset} --set {' '.join([*options.settings, f'stages.0.steps={steps}', 'stages.1=null'])}")
        train(config, options.out, progress=progress.Silent())
        bring(options.out, options.bring)
    if options.refine_steps and further and len(config.stages) == 1:
        # Each evaluation writes the model, so that there is one when the time is up.
        often = dataclasses.replace(config.run, evaluate_every=10, evaluate_n=256, log_every=5)
        second = dataclasses.replace(further[0], steps=options.refine_steps)
        config = dataclasses.replace(config, run=often, stages=(config.stages[0], second))
        alarm = threading.Timer(options.refine_seconds, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.daemon = True
        alarm.start()
        try:
            train(config, options.out, resume=True, progress=progress.Silent())
        except RunError as error:
            say(error)
        alarm.cancel()
        bring(options.out, options.bring)
    if options.n:
        say("evaluating")
        found = evaluate(load_model(options.out), options.n, seed=options.seed)
        (options.out / "evaluation.json").write_text(json.dumps(found, indent=2))
        bring(options.out, options.bring)
        say(json.dumps({key: value for key, value in found.items() if key != "versions"}))
    say("done")


if __name__ == "__main__":
    main()
