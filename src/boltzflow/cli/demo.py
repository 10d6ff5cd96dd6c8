"""`boltzflow demo`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from boltzflow.cli import arguments, output

if TYPE_CHECKING:
    from boltzflow.progress import Progress
    from boltzflow.sampling import Samples
    from boltzflow.targets import Target

PRESET = "dw4-demo"
MOLECULE, OF_MOLECULE = "alanine-dipeptide-eacf", 2_000
"""The shipped flow of a molecule that is sampled in the end, and how many samples."""


def run(
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = "runs/demo",
    n: arguments.Count = 10_000,
    seed: int = 0,
    open: arguments.Flag = False,
) -> None:
    """DW4 from nothing to the report, and a molecule, in a few minutes.

    Makes reference data, trains a flow on them, draws samples with their exact probability, reweights them to the Boltzmann
    distribution, and writes a report. Then samples of the shipped flow of alanine dipeptide are reweighted, too, and their torsions and
    the free energy between the two sides of phi are in the report, beside those of reference frames. Run again, it continues where it
    was interrupted.

    Args:
        out: Folder of the run.
        n: Samples to draw (of the molecule 2000 at most).
        seed: Seed of training and samples.
        open: Open the report in the browser.
    """
    arguments.count(n)
    arguments.seed(seed)
    folder = arguments.new_folder(out)
    arguments.room(n, 8, folder)
    from boltzflow import extras, progress

    for extra in ("train", "evaluate", "report"):
        extras.require(extra, "the demo")
    from boltzflow.cli.train import holds, train
    from boltzflow.config import io as config_io

    began = time.perf_counter()
    config = config_io.apply_overrides(config_io.load_preset(PRESET), [f"run.seed={seed}"])
    with progress.shown() as bar:
        train(config, folder, bar, resume=holds(folder, config))
        figures = _measure(folder, bar, n=n, seed=seed)
        molecule = _molecule(folder, bar, n=min(n, OF_MOLECULE), seed=seed) if extras.installed("molecules") else None
        page = _page(folder, molecule is not None)
    output.evaluation(figures)
    output.say(molecule or "Samples of a molecule need the extra `molecules`: pip install 'boltzflow[molecules]'.")
    output.say(f"From nothing to here in {progress.duration(time.perf_counter() - began)}. The report:")
    print(page)
    if open:
        from boltzflow.cli.report import show

        show(page)


def _measure(folder: Path, bar: "Progress", *, n: int, seed: int) -> dict[str, Any]:
    """Draws and evaluates samples; returns the figures, which the folder keeps."""
    from boltzflow import files
    from boltzflow.evaluation.figures import evaluate
    from boltzflow.models.storage import load_model
    from boltzflow.sampling.generate import generate

    model = load_model(folder)
    samples = generate(model.flow, model.target, n, seed=seed, out=folder / "samples.h5", resume=True, progress=bar)
    figures = evaluate(model, n, seed=seed, progress=bar, samples=samples)
    bar.stop()
    files.replace_json(folder / "evaluation.json", figures)
    return figures


def _molecule(folder: Path, bar: "Progress", *, n: int, seed: int) -> str:
    """Draws samples of the shipped flow of a molecule, kept with its card in a folder within that of the run; what they say, in words."""
    from boltzflow import files
    from boltzflow.analysis import Estimate
    from boltzflow.models.storage import load_model
    from boltzflow.sampling.generate import generate

    model = load_model(MOLECULE)
    place = _place(folder)
    place.mkdir(exist_ok=True)
    files.replace_json(place / "model.json", model.card)
    samples = generate(model.flow, model.target, n, seed=seed, out=place / "samples.h5", resume=True, progress=bar, model=MOLECULE)
    bar.stop()
    found = _phi_difference(samples, model.target)
    known = Estimate.from_dict(model.card["reference"]["phi_difference"])
    return (
        f"{model.target.name}, {n} reweighted samples of {MOLECULE}: F(phi > 0) - F(phi < 0) is {' '.join(found.texts())} kT; "
        f"{known.n} reference frames say {' '.join(known.texts())} kT."
    )


def _phi_difference(samples: "Samples", target: "Target") -> Any:
    """The free energy of positive phi above that of negative phi, of the first residue."""
    import numpy as np

    from boltzflow.analysis import internal_coordinates

    residue = internal_coordinates.backbones(target.topology)[0]
    phi = internal_coordinates.torsions(samples.positions, np.array([residue.phi]))[:, 0]
    return samples.free_energy_difference(phi > 0, phi <= 0)


def _place(folder: Path) -> Path:
    return folder / MOLECULE


def _page(folder: Path, molecule: bool) -> Path:
    """Writes the report."""
    from boltzflow import report

    return report.write(folder, folder / "report.html", also=[_place(folder)] if molecule else [])
