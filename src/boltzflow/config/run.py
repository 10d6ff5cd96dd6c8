"""Everything that determines a run."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from boltzflow.config.flows import ECNF, Flow
from boltzflow.config.molecule import Molecule
from boltzflow.config.objectives import Objective
from boltzflow.config.optimisers import Adam, Optimiser
from boltzflow.config.options import Options
from boltzflow.config.ranges import Count, CountOrNone, Seed

Precision = Literal["single", "double"]


@dataclasses.dataclass(frozen=True)
class DataConfig(Options):
    """Where the frames come from.

    Example:
        >>> bf.DataConfig(path="frames.xtc", topology="mine.pdb", validation=500).n
        100000

    Attributes:
        path: data set file (HDF5, .npy, .npz) or trajectory (XTC, DCD, TRR, NetCDF, PDB, GRO, XYZ); null makes reference data with the
            built-in sampler.
        topology: file that tells the atoms of a trajectory which does not itself; null: they are the target's.
        selection: the target's atoms among those of a trajectory, such as "protein"; null: all.
        log_weight: file of log-weights of the frames in `path`, .npy or one number a line; null: those that it holds itself, else all
            frames count alike.
        n: frames to generate where `path` is null; 0: none, for stages that learn from energies alone.
        seed: seed of the reference sampler.
        validation: frames held out for validation.
        split_seed: seed of the split into training and validation frames.
        allow_virial_mismatch: use data that fail the virial check.
    """

    path: str | None = None
    topology: str | None = None
    selection: str | None = None
    log_weight: str | None = None
    n: CountOrNone = 100_000
    seed: Seed = 0
    validation: CountOrNone = 10_000
    split_seed: Seed = 0
    allow_virial_mismatch: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Something must be left to train on."""
        for name, what in (("topology", "trajectory"), ("selection", "trajectory"), ("log_weight", "file of frames")):
            if self.path is None and getattr(self, name) is not None:
                yield name, f"would have no effect: data.path names no {what}; leave it out"
        if self.path is None and self.n == 0:
            if self.validation:
                yield "validation", f"must be 0 where data.n is 0, as there are no frames to hold any out of; got {self.validation}"
        elif self.path is None and self.n <= self.validation:
            yield "n", f"({self.n}) must be larger than data.validation ({self.validation}), or nothing is left to train on"


@dataclasses.dataclass(frozen=True)
class Stage(Options):
    """Steps of a run that have an objective and an optimiser in common.

    The first stage starts from the parameters of the flow, each other one from the averaged parameters of the one before.

    Example:
        >>> bf.Stage(steps=2_000, batch_size=128, microbatch=64).optimiser.variant
        'adam'

    Attributes:
        objective: what is minimised; null: what the flow is made for.
        optimiser: what turns gradients into steps.
        steps: optimiser steps.
        batch_size: configurations per step.
        microbatch: configurations per chunk of the gradient accumulation; small chunks stay in the processor's cache.
    """

    objective: Objective | None = None
    optimiser: Optimiser = Adam()
    steps: Count = 10_000
    batch_size: Count = 256
    microbatch: Count = 32

    def problems(self) -> Iterator[tuple[str, str]]:
        """Batches fall into whole chunks."""
        if self.batch_size % self.microbatch:
            yield "microbatch", f"must divide batch_size, but {self.batch_size} is no multiple of {self.microbatch}"


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """The loop.

    Example:
        >>> bf.RunOptions(seed=3, evaluate_every=500).checkpoint_every
        1000

    Attributes:
        start_from: model (name, run folder or file) whose parameters training starts from; it may be of another target if its network has
            the same options. null: fresh parameters.
        seed: seed of everything that is random in training, from 0 to 2^64 - 1.
        devices: devices that share each batch; 0: all there are.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: checkpoints that are kept.
        evaluate_every: steps between two evaluations (NLL and reverse ESS) during training; 0: never.
        evaluate_n: samples of a periodic evaluation.
        tensorboard: also write TensorBoard event files (extra `tracking`).
    """

    start_from: str | None = None
    seed: Seed = 0
    devices: CountOrNone = 1
    log_every: Count = 100
    checkpoint_every: Count = 1_000
    keep_checkpoints: Count = 3
    evaluate_every: CountOrNone = 0
    evaluate_n: Count = 500
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class RunConfig(Options):
    """Everything that determines a run.

    Example:
        >>> config = bf.RunConfig(target="dw4", flow=bf.EACF(), stages=(bf.Stage(steps=500),))
        >>> config.flow.variant, config.stages[0].steps
        ('eacf', 500)

    Attributes:
        target: name of a registered target; that of the molecule where one is made.
        plugins: modules, or .py files, that add targets, networks, objectives and more; they are imported first.
        data: the frames.
        flow: the flow.
        stages: what is done one after the other.
        run: the loop.
        precision: "single" or "double".
        molecule: a molecule that is made, in place of a registered target.
        description: a sentence for `boltzflow presets`.
    """

    target: str
    data: DataConfig = DataConfig()
    flow: Flow = ECNF()
    stages: tuple[Stage, ...] = (Stage(),)
    run: RunOptions = RunOptions()
    precision: Precision = "single"
    plugins: tuple[str, ...] = ()
    molecule: Molecule = Molecule()
    description: str = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A flow and its objectives belong together, and batches are shared by the devices."""
        if not self.stages:
            yield "stages", "must hold at least one stage, such as `- {steps: 1000}`"
        for index, stage in enumerate(self.stages):
            # An objective may leave learning to another.
            for name, objective in (("objective", stage.objective), ("objective.learn", getattr(stage.objective, "learn", None))):
                if isinstance(objective, Objective) and objective.flows and self.flow.variant not in objective.flows:
                    yield (
                        f"stages.{index}.{name}",
                        f"is {objective.variant}, which is made for the flow {' or '.join(objective.flows)}, and the flow here is "
                        f"{self.flow.variant}; choose another, such as stages.{index}.{name}={_fitting(objective, self.flow)}",
                    )
            if self.run.devices > 1 and stage.batch_size % self.run.devices:
                yield (
                    f"stages.{index}.batch_size",
                    f"must be a multiple of run.devices, but {stage.batch_size} is no multiple of {self.run.devices}",
                )

    def completed(self) -> "RunConfig":
        """The same configuration, each stage with its objective named."""
        natural = Objective.variants[self.flow.natural_objective]
        stages = [dataclasses.replace(stage, objective=natural()) if stage.objective is None else stage for stage in self.stages]
        return dataclasses.replace(self, stages=tuple(stages))


def _fitting(objective: Objective, flow: Flow) -> str:
    """An objective for the flow that comes nearest to one for another."""
    fitting = [name for name, cls in Objective.variants.items() if flow.variant in cls.flows]  # pyright: ignore[reportAttributeAccessIssue]
    alike = [name for name in fitting if objective.variant.rpartition("-")[2] == name.rpartition("-")[2]]
    return next(iter(alike), flow.natural_objective)
