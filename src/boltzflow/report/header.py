"""The head of the page: what was trained, when and how; and which samples each figure is of."""

import datetime
from collections.abc import Sequence

from markupsafe import Markup

from boltzflow.report.contents import Contents, is_number
from boltzflow.report.page import filled, thousands


def header(run: Contents, others: Sequence[str] = ()) -> Markup:
    """Title, temperature, run, date and command; and what else the page has samples of."""
    system = ""
    if run.system is not None:
        dimension = {2: "in the plane", 3: "in space"}.get(run.system.dimension, f"in {run.system.dimension} dimensions")
        system = f", {run.system.n_particles} {'atoms' if run.system.elements else 'particles'} {dimension}"
    facts = [
        ("Temperature", run.system.temperature_in_words if run.system is not None else ""),
        ("Run", run.folder.resolve().name),
        ("Date", _date(run)),
        ("Command", run.versions.get("command") or run.card.get("command") or ""),
    ]
    return filled("header.html", target=run.target_name, system=system, facts=facts, others=others)


def chapter(run: Contents) -> Markup:
    """The head of the sections of samples alone."""
    temperature = run.system.temperature_in_words if run.system is not None else ""
    count = thousands(run.samples.n) if run.samples is not None else "no"
    about = str(run.card.get("description", "")).partition(";")[0]
    return filled("chapter.html", target=run.target_name, samples=count, description=about, temperature=temperature)


def _date(run: Contents) -> str:
    """When the run was begun; of runs that have not noted it, when their configuration was written."""
    noted = run.versions.get("date")
    if isinstance(noted, str):
        return noted[:16].replace("T", " ")
    path = run.folder / "config.yaml"
    if not path.is_file():
        return ""
    return datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def drawn_for(run: Contents) -> str:
    """Which samples the key figures and the histograms are of, where they are not the same."""
    evaluated = run.evaluation.get("n")
    parts = []
    if is_number(evaluated):
        parts.append(
            f"Key figures and tiles are of the evaluation, which drew {thousands(int(evaluated))} samples of its own and looked at "
            "reference frames as many as their n says"
        )
    if run.samples is not None:
        of = "Histograms, weights and structures" if is_number(evaluated) else "All figures"
        parts.append(f"{of} are of the {thousands(run.samples.n)} samples in samples.h5")
    return ". ".join(parts) + "." if parts else ""


def from_evaluation(run: Contents, key: str) -> bool:
    """Whether a key figure comes from the evaluation rather than from the samples file."""
    entry = run.evaluation.get(key)
    return is_number(entry) or (isinstance(entry, dict) and is_number(entry.get("value")))


def origin(run: Contents, key: str) -> str:
    """Where a key figure comes from, in a word."""
    return "evaluation" if from_evaluation(run, key) else "samples.h5"
