"""`boltzflow demo`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from boltzflow.cli import arguments, output

if TYPE_CHECKING:
    from boltzflow.progress import Progress

PRESET = "dw4-demo"


def run(
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = "runs/demo",
    n: arguments.Count = 10_000,
    seed: int = 0,
    open: arguments.Flag = False,
) -> None:
    """DW4 from nothing to the report in a few minutes.

    Makes reference data, trains a flow on them, draws samples with their exact probability, reweights them to the Boltzmann
    distribution, and writes a report. Run again, it continues where it was interrupted.

    Args:
        out: Folder of the run.
        n: Samples to draw.
        seed: Seed of training and samples.
        open: Open the report in the browser.
    """
    arguments.count(n)
    arguments.seed(seed)
    folder = arguments.new_folder(out)
    arguments.room(n, 8, folder)
    from boltzflow import progress
    from boltzflow.cli.train import holds, train
    from boltzflow.config import io as config_io

    began = time.perf_counter()
    config = config_io.apply_overrides(config_io.load_preset(PRESET), [f"run.seed={seed}"])
    with progress.shown() as bar:
        train(config, folder, bar, resume=holds(folder, config))
        figures, page = _measure(folder, bar, n=n, seed=seed)
    output.evaluation(figures)
    output.say(f"From nothing to here in {progress.duration(time.perf_counter() - began)}. The report:")
    print(page)
    if open:
        from boltzflow.cli.report import show

        show(page)


def _measure(folder: Path, bar: "Progress", *, n: int, seed: int) -> tuple[dict[str, Any], Path]:
    """Draws and evaluates samples, and writes the report; returns the figures and the report's path."""
    from boltzflow import files, report
    from boltzflow.evaluation.figures import evaluate
    from boltzflow.models.storage import load_model
    from boltzflow.sampling.generate import generate

    model = load_model(folder)
    samples = generate(model.flow, model.target, n, seed=seed, out=folder / "samples.h5", resume=True, progress=bar)
    figures = evaluate(model, n, seed=seed, progress=bar, samples=samples)
    bar.stop()
    files.replace_json(folder / "evaluation.json", figures)
    page = folder / "report.html"
    report.write(folder, page)
    return figures, page
