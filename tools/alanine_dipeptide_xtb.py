"""Alanine dipeptide with the energy GFN2-xTB (Klein, Krämer and Noé, 2023, appendix): frames, fine-tuning, reweighting.

    python tools/alanine_dipeptide_xtb.py relax CLASSICAL.h5 XTB.h5 -n 4500 --steps 60
    python tools/alanine_dipeptide_xtb.py train XTB.h5 runs/xtb --start-from alanine-dipeptide --steps 4000 -n 12000
    python tools/alanine_dipeptide_xtb.py train XTB.h5 runs/xtb --start-from alanine-dipeptide-eacf --steps 400 --refine 1300 --average

Half of the frames that are relaxed have phi > 0, which is rare, so that the flow learns both sides alike; the weights put that right.
"""

import argparse
import dataclasses
import os

import numpy as np

from boltzflow import datasets, reference, targets
from boltzflow.analysis import free_energy
from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.config import AugmentedPathGradient, DataConfig, PathGradient, Stage
from boltzflow.errors import TargetError
from boltzflow.models import load_model
from boltzflow.progress import PlainProgress
from boltzflow.sampling.averaging import averaged
from boltzflow.sampling.generate import generate
from boltzflow.training import train

# In eV, near the energy of the minimum: single precision keeps the differences.
REFERENCE_ENERGY = -897.5


def phi(positions: np.ndarray, molecule: targets.Target) -> np.ndarray:
    """The torsion phi in radians."""
    return torsions(positions, np.array([backbones(molecule.topology)[0].phi]))[:, 0]


def relax(arguments: argparse.Namespace, molecule: targets.Target, target: targets.Target) -> None:
    """Frames of the force field, half of them with phi > 0, moved by short dynamics under GFN2-xTB."""
    frames = datasets.load(arguments.source, molecule).positions
    positive = phi(frames, molecule) > 0
    rng = np.random.default_rng(arguments.seed)
    half = arguments.n // 2
    chosen = np.concatenate([rng.choice(np.flatnonzero(positive), half), rng.choice(np.flatnonzero(~positive), arguments.n - half)])
    found = reference.relax(target, frames[rng.permutation(chosen)], steps=arguments.steps, seed=arguments.seed)
    found.save(arguments.out)
    print(dict(found.provenance), targets.failures(target))


def tune(arguments: argparse.Namespace, molecule: targets.Target, target: targets.Target) -> None:
    """Goes on training a flow of the force field with frames of GFN2-xTB, then draws and reweights."""
    try:
        model = load_model(arguments.start_from)
    except TargetError:
        model = load_model(arguments.start_from, target=target)
    config, first = model.config, model.config.stages[0]
    coupling = config.flow.variant == "eacf"
    rates = dataclasses.replace(
        first.optimiser,
        learning_rate=arguments.learning_rate,
        final_learning_rate=1e-5 if coupling else 1e-6,
        warmup_steps=min(100, arguments.steps // 10),
        ema_decay=arguments.ema_decay,
    )
    sizes = {"steps": arguments.steps, "batch_size": arguments.batch_size, "microbatch": arguments.microbatch}
    stages = [dataclasses.replace(first, optimiser=rates, **sizes)]
    if arguments.refine:
        # Half of the samples of a flow of the force field pull with 200 and more; a bound below that points elsewhere.
        objective = (AugmentedPathGradient if coupling else PathGradient)(direction="reverse", clip=300.0)
        slow = {"learning_rate": 1.5e-4, "final_learning_rate": 5e-6, "warmup_steps": 10, "ema_decay": 0.98}
        optimiser = dataclasses.replace(rates, **slow)
        stages.append(Stage(objective, optimiser, arguments.refine, batch_size=32, microbatch=16))
    config = dataclasses.replace(
        config,
        target=target.name,
        data=DataConfig(validation=300, allow_virial_mismatch=True),
        flow=dataclasses.replace(config.flow, scale=float(model.flow.scale)),
        stages=tuple(stages),
        run=dataclasses.replace(config.run, start_from=arguments.start_from, evaluate_every=0, evaluate_n=500, log_every=10),
    )
    frames = datasets.load(arguments.source, target, allow_virial_mismatch=True)
    train(config, arguments.out, target=target, dataset=frames, progress=PlainProgress(), resume=os.path.exists(arguments.out))
    flow = load_model(arguments.out, target=target).flow
    samples = generate(flow, target, arguments.n, seed=arguments.seed, out=f"{arguments.out}/samples.h5", progress=PlainProgress())
    positive = phi(samples.positions, molecule) > 0
    print("reverse ESS", samples.ess(), "log Z", samples.log_z(), targets.failures(target))
    if arguments.average:
        samples = averaged(samples, flow, target, progress=PlainProgress())
        samples.save(f"{arguments.out}/averaged.h5")
        print("averaged: reverse ESS", samples.ess(), "log Z", samples.log_z())
    print("F(phi > 0) - F(phi < 0) before", free_energy.difference(np.zeros(samples.n), positive, ~positive))
    print("F(phi > 0) - F(phi < 0) after", free_energy.difference(samples.log_weight, positive, ~positive))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["relax", "train"])
    parser.add_argument("source", help="frames of the force field (relax) or of GFN2-xTB (train)")
    parser.add_argument("out")
    parser.add_argument("-n", type=int, default=4500)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--start-from", default="alanine-dipeptide")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--microbatch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--refine", type=int, default=0, help="steps of refinement by path gradients of the reverse divergence")
    parser.add_argument("--average", action="store_true", help="average log q over the copies of an augmented flow")
    arguments = parser.parse_args()
    molecule = targets.get("alanine-dipeptide")
    target = targets.gfn2_xtb(molecule, reference_energy=REFERENCE_ENERGY, workers=arguments.workers)
    (relax if arguments.job == "relax" else tune)(arguments, molecule, target)


if __name__ == "__main__":
    main()
