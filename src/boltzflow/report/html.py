"""The page: its sections, and the figures in them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from boltzflow import files
from boltzflow.analysis import correlation, metrics, weights
from boltzflow.analysis.observables import nearest_distances, pair_distances
from boltzflow.errors import RunError
from boltzflow.report import contents as run_contents
from boltzflow.report import health, key_figures, molecules, scorecard, structures
from boltzflow.report.contents import MAX_SAMPLES, Contents, is_number
from boltzflow.report.header import chapter, header
from boltzflow.report.page import EMPTY, apart, duration, figure, filled, percent, section, sentence, short, table, thousands
from boltzflow.sampling import plots, views

MAX_DISTANCES = 2_000_000


def write(run_dir: str | Path, out: str | Path, *, say: Callable[[str], None] | None = None, also: Sequence[str | Path] = ()) -> Path:
    """Writes the report of a run as one HTML page that needs nothing else, no network either.

    Reads only files of the run folder; what is missing is left out and said in a sentence.

    Args:
        run_dir: the run folder.
        out: the page; its folder is made if need be, an existing page is replaced.
        say: told each sentence about what is missing or cannot be read, which the page has, too.
        also: folders with the samples of shipped models (samples.h5 and the card, model.json), whose sections follow.

    Returns:
        The path of the page.

    Raises:
        RunError: if there is no run in the folder, or the page cannot be written.
    """
    out = files.named(out)
    run = run_contents.read(files.named(run_dir, "the name of the run folder"))
    files.require_writable(out)
    page = render(run, [run_contents.read(files.named(folder, "the name of the folder")) for folder in also])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.replace(out, page)
    except OSError as error:
        raise RunError(f"cannot write the report to {out}: {error.strerror or error}.") from error
    if say is not None:
        for note in run.notes:
            say(note)
    return out


def render(run: Contents, others: Sequence[Contents] = ()) -> str:
    """The page of a run as text; before what it was made from come samples of shipped models."""
    parts = [header(run, [other.target_name for other in others]), key_figures.tiles(run), *_drawn(run, _sections(run))]
    for other in others:
        # What is missing of a run is missing of samples alone by their nature.
        other.notes.clear()
        parts += [chapter(other), key_figures.tiles(other), *_drawn(other, _chapter(run, other))]
        run.notes.extend(other.notes)
    parts += [*([filled("made.html", target=run.target_name)] if others else []), *_drawn(run, (_durations, _configuration))]
    return filled("page.html", target=run.target_name, parts=parts, notes=run.notes, folder=run.folder.resolve().name)


def _sections(run: Contents) -> Iterator[Callable[[Contents], Markup]]:
    """The functions that make the sections of a run."""
    yield from (key_figures.figures_table, scorecard.table, _energies, *molecules.sections(run), _distances, _view)
    yield from (_weights, _training, health.figures_of_rungs)


def _chapter(run: Contents, other: Contents) -> Iterator[Callable[[Contents], Markup]]:
    """The functions that make the sections of samples alone; a page has one 3-D view."""
    yield from (_energies, *molecules.sections(other))
    if run.samples is None or run.samples.positions.shape[2] != 3:
        yield _view
    yield _weights


def _drawn(run: Contents, makers: Iterable[Callable[[Contents], Markup]]) -> Iterator[Markup]:
    for make in makers:
        try:
            yield make(run)
        # One section that fails, on files of another version say, must not cost the reader the others.
        except Exception as error:
            run.notes.append(f"The section {make.__name__.strip('_').replace('_', ' ')} could not be drawn: {error}")


def _weighted(run: Contents) -> tuple[Any, Float[np.ndarray, " n"] | None]:
    """Samples spread over all, and their log-weights; None for the latter where no sample has weight."""
    assert run.samples is not None
    samples = run.samples.take(correlation.spread(run.samples.n, MAX_SAMPLES))
    log_w = samples.log_weight
    return samples, log_w if samples.has_energy and np.isfinite(log_w).any() else None


def _energies(run: Contents) -> Markup:
    values: dict[str, tuple[Any, Any]] = {}
    if run.data_energies is not None:
        values["data"] = (run.data_energies, None)
    if run.samples is not None and run.samples.has_energy:
        samples, log_w = _weighted(run)
        values["flow"] = (samples.u, None)
        if log_w is not None:
            values["reweighted flow"] = (samples.u, log_w)
    if not values:
        return EMPTY
    kt = run.system.temperature_in_words if run.system is not None else ""
    what = f"energies at {kt}" if kt else "energies"
    return _histogram_section(run, "Energies", "reduced energy u = U / kT", values, plots.energy_edges(values), what)


def _distances(run: Contents) -> Markup:
    pairs = _of_configurations(run, pair_distances)
    near = _of_configurations(run, nearest_distances)
    if not pairs:
        return EMPTY
    unit = _unit(run)
    return _histogram_section(
        run, "Pair distances", f"distance of two particles / {unit}", pairs, _distance_edges(pairs), "pair distances"
    ) + _histogram_section(
        run,
        "Nearest neighbours",
        f"distance to the nearest particle / {unit}",
        near,
        _distance_edges(near),
        "distances to the nearest particle (in a molecule: the shortest bonds)",
    )


def _unit(run: Contents) -> str:
    """The unit of length as it is written."""
    return {"nm": "nm", "angstrom": "Å"}.get(run.units, f"{run.units} units")


def _of_configurations(run: Contents, observable: Callable[[np.ndarray], np.ndarray]) -> dict[str, tuple[Any, Any]]:
    """An observable of frames and samples, with log-weights where there are any; of fewer configurations for large systems."""
    values: dict[str, tuple[Any, Any]] = {}

    def most(positions: np.ndarray) -> int:
        pairs = positions.shape[1] * (positions.shape[1] - 1) // 2
        return max(100, min(MAX_SAMPLES, MAX_DISTANCES // max(pairs, 1)))

    if run.data is not None:
        values["data"] = (observable(run.shown_frames(most(run.data))), None)
    if run.samples is not None:
        samples, log_w = _weighted(run)
        chosen = correlation.spread(samples.n, most(samples.positions))
        found = observable(samples.positions[chosen])
        values["flow"] = (found, None)
        if log_w is not None and np.isfinite(log_w[chosen]).any():
            values["reweighted flow"] = (found, log_w[chosen])
    finite = [array[np.isfinite(array)] for name, (array, _) in values.items() if name != "reweighted flow"]
    return values if any(array.size for array in finite) else {}


def _distance_edges(values: Mapping[str, tuple[Any, Any]]) -> Float[np.ndarray, " b_plus_1"]:
    """Bins over nearly all values."""
    finite = np.concatenate([array[np.isfinite(array)] for name, (array, _) in values.items() if name != "reweighted flow"])
    low, high = np.quantile(finite, [0.0002, 0.9998])
    margin = 0.04 * max(high - low, 1e-6)
    return np.linspace(max(0.0, low - margin), high + margin, 91)


def _histogram_section(
    run: Contents, title: str, xlabel: str, values: Mapping[str, tuple[Any, Any]], edges: Float[np.ndarray, " b_plus_1"], what: str
) -> Markup:
    from boltzflow.report import figures

    shown = {name: metrics.histogram(_nan_outside(array), edges, log_w=log_w) for name, (array, log_w) in values.items()}
    sentences = []
    if "data" in values:
        data = _nan_outside(values["data"][0])
        blocks = correlation.of_series(np.nan_to_num(data).reshape(len(data), -1).mean(axis=1)).blocks
        for name in ("flow", "reweighted flow"):
            if name in values:
                array, log_w = values[name]
                distance = metrics.total_variation_distance(data, _nan_outside(array), edges, log_w_b=log_w, blocks_a=blocks)
                sentences.append(f"total variation distance of {name} from data: {apart(distance)}")
    sentences += [f"no band of {name}: {histogram.note}" for name, histogram in shown.items() if histogram.note]
    outside = [f"{percent(h.outside)} of {name}" for name, h in shown.items() if h.outside > 0.005]
    if outside:
        sentences.append(f"outside the range shown: {', '.join(outside)}")
    caption = f"Histograms of {what} with 95\u202f% bands. " + sentence(sentences)
    return section(title, figure(figures.histograms(shown, xlabel), caption, f"Histograms of {what}: {', '.join(shown)}"))


def _nan_outside(values: Any) -> Any:
    """Infinite values count as outside every bin."""
    return np.where(np.isfinite(values), values, np.nan)


def _view(run: Contents) -> Markup:
    if run.samples is None or run.samples.positions.shape[2] not in (2, 3):
        return EMPTY
    from boltzflow.report import figures

    indices = views.representatives(run.samples)
    if len(indices) == 0:
        return EMPTY
    positions, energies = run.samples.positions[indices], [float(u) for u in run.samples.u[indices]]
    classes = list(run.system.classes) if run.system is not None and run.system.classes else [0] * positions.shape[1]
    unit = _unit(run)
    weighted = ", drawn with their weights so that they look like the target" if run.samples.has_energy else ""
    words = f"Samples of the flow{weighted}."
    if positions.shape[2] == 2:
        svg = figures.planar_configurations(positions, energies, classes, unit)
        return section("Samples", figure(svg, words, f"{len(positions)} planar configurations"))
    molecule = run.system is not None and bool(run.system.elements)
    colors = "by their element" if molecule else "by their distance from the centre" if len(set(classes)) == 1 else "by their kind"
    joined = "bonded atoms" if molecule else "neighbours"
    note = f"{words} Particles are coloured {colors}, lines join {joined}. Drag to turn, scroll to zoom, move the slider for another one."
    return section("Samples", structures.view_3d(positions, energies, *_looks(run, classes), unit), words=note)


def _looks(run: Contents, classes: list[int]) -> tuple[list[int] | list[str], list[tuple[int, int]] | None]:
    """Classes, or elements and bonds of a molecule."""
    if run.system is None or not run.system.elements:
        return classes, None
    return list(run.system.elements), list(run.system.bonds)


def _weights(run: Contents) -> Markup:
    if run.samples is None or not run.samples.has_energy:
        return EMPTY
    from boltzflow.report import figures

    log_w = run.samples.log_weight
    without = int(np.isneginf(log_w).sum())
    lost = f"{thousands(without)} of {thousands(log_w.size)} samples have no weight" if without else ""
    if without == log_w.size:
        return section("Weights", note=sentence([lost]))
    if run.samples.grouped:
        return section("Weights", words=_correction(run.samples.meta))
    k = weights.pareto_k(log_w)
    share = float(weights.normalized(log_w).max())
    parts = [f"the heaviest of {thousands(log_w.size)} samples carries {percent(share)} of all weight"]
    judged = weights.verdict(log_w).sentence
    parts.append(f"Pareto k = {k:.2f}, {judged}" if math.isfinite(k) else f"Pareto k: {judged}")
    caption = sentence([*parts, *([lost] if lost else [])])
    words = "A perfect flow gives all samples the same weight. A few that are far heavier than the rest ruin every average."
    svg = figures.weight_distribution(log_w, k)
    return section("Weights", figure(svg, caption, "Histogram of the log-weights and their tail on logarithmic axes"), words=words)


def _correction(meta: Mapping[str, Any]) -> str:
    """What was done to the flow's draws, and how that went."""
    parts = [f"These samples were brought to the target: {meta.get('correction')}"]
    stages, tried, found = (meta.get("schedule") or {}).get("b"), meta.get("tried_moves"), meta.get("diagnostics") or {}
    if stages is not None:
        parts.append(f"{len(stages)} temperatures")
    if tried:
        parts.append(f"{percent(meta['accepted_moves'] / tried)} of the moves were accepted")
    parts += [
        f"{words} {found[name]:.3g}"
        for name, words in (
            ("acceptance", "acceptance of the flow"),
            ("longest_stay", "longest stay in steps"),
            ("autocorrelation_time", "autocorrelation time in steps"),
            ("r_hat", "R-hat"),
        )
        if is_number(found.get(name))
    ]
    parts.append("they depend on one another within populations or chains, whose scatter the intervals of ESS and log Z are made from")
    return sentence(parts)


def _training(run: Contents) -> Markup:
    if not run.metrics and not run.evaluations:
        return EMPTY
    from boltzflow.report import figures

    parts = [f"{thousands(run.metrics[-1]['step'])} steps"] if run.metrics else []
    for key, what in (
        ("skipped", "steps left out, their gradient not finite or far above the others"),
        ("masked", "frames masked, their loss not finite"),
    ):
        count = run.metrics[-1].get(key) if run.metrics else None
        if is_number(count) and count:
            parts.append(f"{thousands(int(count))} {what}")
    caption = sentence(parts) + (" Bands are 95\u202f% intervals." if run.evaluations else "")
    return section("Training", figure(figures.training(run.metrics, run.evaluations), caption, "Training curves over the steps"))


LABELS = {"reference": "reference data", "reference_data": "reference data", "compile": "compilation"}


def _durations(run: Contents) -> Markup:
    rows = [(LABELS.get(name, name.replace("_", " ")), duration(seconds)) for name, seconds in run_contents.durations(run)]
    return section("How long it took", table(rows)) if rows else EMPTY


def _configuration(run: Contents) -> Markup:
    card = [(key.replace("_", " "), value) for key, value in run.card.items() if isinstance(value, str | int | float | bool)]
    source = [(key.replace("_", " "), short(value)) for key, value in run.provenance.items() if np.ndim(value) == 0]
    versions = [(key, value) for key, value in run.versions.items() if isinstance(value, str) and key not in ("date", "command")]
    tables = [(title, rows) for title, rows in (("Versions", versions), ("Model", card), ("Reference data", source)) if rows]
    text = run.config_text.strip()
    listing = section("Configuration", code=text) if text else EMPTY
    return listing + (filled("tables.html", tables=tables) if tables else EMPTY)
