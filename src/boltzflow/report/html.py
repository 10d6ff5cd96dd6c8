"""The page: sections, tables and style around the figures."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import files
from boltzflow.analysis import correlation, metrics, tails, weights
from boltzflow.analysis.estimate import Estimate
from boltzflow.analysis.observables import nearest_distances, pair_distances
from boltzflow.errors import RunError
from boltzflow.report import contents as run_contents
from boltzflow.report import molecules, structures
from boltzflow.report.contents import MAX_SAMPLES, Contents, is_number
from boltzflow.report.header import drawn_for, from_evaluation, header, origin
from boltzflow.report.page import (
    CSS,
    POLICY,
    apart,
    duration,
    escape,
    figure,
    known,
    numbers,
    percent,
    section,
    sentence,
    short,
    table,
    thousands,
)

MAX_DISTANCES = 2_000_000


def write(run_dir: str | Path, out: str | Path, *, say: Callable[[str], None] | None = None) -> Path:
    """Writes the report of a run as one HTML page that needs nothing else, no network either.

    Reads only files of the run folder; what is missing is left out and said in a sentence.

    Args:
        run_dir: the run folder.
        out: the page; its folder is made if need be, an existing page is replaced.
        say: told each sentence about what is missing or cannot be read, which the page has, too.

    Returns:
        The path of the page.

    Raises:
        RunError: if there is no run in the folder, or the page cannot be written.
    """
    out = files.named(out)
    run = run_contents.read(files.named(run_dir, "the name of the run folder"))
    files.require_writable(out)
    page = render(run)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.replace(out, page)
    except OSError as error:
        raise RunError(f"cannot write the report to {out}: {error.strerror or error}.") from error
    if say is not None:
        for note in run.notes:
            say(note)
    return out


def render(run: Contents) -> str:
    """The page of a run as text."""
    body = "".join([header(run), _tiles(run), *_sections(run)])
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escape(run.target_name)}: boltzflow report</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
{f"<section><h2>What is not here</h2>{notes}</section>" if notes else ""}
<footer>Written by boltzflow from the files of the run folder {escape(run.folder.resolve().name)}. Intervals are 95 % intervals;
densities and partition functions are on the zero-centre-of-mass subspace.</footer>
</main>
</body>
</html>
"""


def _sections(run: Contents) -> Iterator[str]:
    for make in (_figures_table, _energies, *molecules.sections(run), _distances, _view, _weights, _training, _durations, _configuration):
        try:
            yield make(run)
        # One section that fails, on files of another version say, must not cost the reader the others.
        except Exception as error:
            run.notes.append(f"The section {make.__name__.strip('_').replace('_', ' ')} could not be drawn: {error}")


def _estimate(run: Contents, key: str) -> Estimate | None:
    """A key figure from the evaluation, else from the samples."""
    entry = run.evaluation.get(key)
    if isinstance(entry, dict) and is_number(entry.get("value")):
        return Estimate.from_dict(entry)
    if run.samples is not None and run.samples.has_energy and not run.evaluation:
        if key == "ess_reverse":
            return run.samples.ess()
        if key == "log_z":
            return run.samples.log_z()
    return None


def _pareto_k(run: Contents) -> float:
    if is_number(run.evaluation.get("pareto_k")):
        return float(run.evaluation["pareto_k"])
    return weights.pareto_k(run.samples.log_weight) if run.samples is not None and run.samples.has_energy else math.nan


def _verdict(run: Contents) -> str:
    """What the tail of the weights means, in words."""
    found = run.evaluation.get("verdict")
    if isinstance(found, dict) and isinstance(found.get("sentence"), str):
        return found["sentence"]
    if is_number(run.evaluation.get("pareto_k")):
        # Of an evaluation by an older version.
        k, limit = float(run.evaluation["pareto_k"]), tails.limit(int(run.evaluation.get("n") or 10_000))
        return f"{'below' if k < limit else 'above'} {limit:.2g}: {'' if k < limit else 'do not trust '}reweighted figures" + (
            " can be trusted" if k < limit else ""
        )
    if run.samples is not None and run.samples.has_energy:
        return weights.verdict(run.samples.log_weight).sentence
    return "too few or too equal weights to tell"


def _tiles(run: Contents) -> str:
    tiles = []
    for key, label, factor, unit in (
        ("ess_reverse", "Reverse ESS", 100.0, "\u202f%"),
        ("ess_forward", "Forward ESS", 100.0, "\u202f%"),
        ("nll_minus_entropy", "NLL − entropy (0: perfect)", 1.0, "\u202fnats"),
    ):
        estimate = _estimate(run, key)
        if estimate is not None:
            value, interval = numbers(estimate, factor)
            tiles.append(
                (
                    f"{value}{unit}",
                    label,
                    ", ".join(part for part in (interval, f"n = {thousands(estimate.n)}", origin(run, key)) if part),
                )
            )
    k = _pareto_k(run)
    if math.isfinite(k):
        tiles.append((f"{k:.2f}", "Pareto k of the weights", f"{escape(_verdict(run))} ({origin(run, 'pareto_k')})"))
    cells = "".join(f'<div class="tile"><span>{label}</span><b>{value}</b><small>{small}</small></div>' for value, label, small in tiles)
    return f'<div class="tiles">{cells}</div>' if tiles else ""


def _figures_table(run: Contents) -> str:
    exact = run.target.exact if run.target is not None else None
    log_z = known(exact.log_z, exact.log_z_error) if exact is not None else ""
    entropy = known(exact.entropy, exact.entropy_error) if exact is not None else ""
    rows = []
    for key, label, remark in (
        ("ess_reverse", "Reverse ESS", "effective sample size after reweighting, as a share of n"),
        ("ess_forward", "Forward ESS", "the same seen from reference data; drops where the flow misses modes"),
        ("nll", "NLL / nats", f"no flow can be below the entropy, {entropy}" if entropy else ""),
        ("nll_minus_entropy", "NLL − entropy / nats", "Kullback-Leibler divergence of the flow from the target"),
        ("ess_reverse_marginal", "Reverse ESS, marginal", "copies averaged out; the joint one above counts their noise, too"),
        ("nll_one_draw", "NLL, one draw / nats", "with a single draw of the copies; the gap to NLL is what averaging gains"),
        ("ess_of_draws", "ESS of the draws", "of the copies, as a share of their number"),
        ("log_z", "log Z", f"known: {log_z}" if log_z else ""),
        ("path_length", "Path length", "of a sample from prior to data; shorter is easier to integrate"),
        (
            "solver_error",
            "Error of log q / nats",
            f"of the solver, root mean square; above {metrics.TOLERABLE_ERROR} nothing here is to be trusted",
        ),
        ("nfe", "NFE", "evaluations of the network per sample"),
    ):
        estimate = _estimate(run, key)
        if estimate is None:
            continue
        percent = key.startswith("ess")
        value, interval = numbers(estimate, 100.0 if percent else 1.0)
        effective = "" if estimate.n_effective is None else f" ({thousands(round(estimate.n_effective))} effective)"
        said = escape(estimate.note)
        remark = f"{remark}; {said}" if remark and said else remark or said
        rows.append((label, value + ("\u202f%" if percent else ""), interval, thousands(estimate.n) + effective, remark))
    if not rows:
        return ""
    k = _pareto_k(run)
    counted = run.evaluation.get("n") if from_evaluation(run, "pareto_k") else run.samples.n if run.samples is not None else None
    rows.append(
        (
            "Pareto k",
            f"{k:.2f}" if math.isfinite(k) else "–",
            "",
            thousands(int(counted)) if is_number(counted) else "",
            escape(_verdict(run)),
        )
    )
    failed = run.evaluation.get("failed", run.samples.n_failed if run.samples is not None else None)
    if is_number(failed):
        rows.append(("Failed samples", thousands(int(failed)), "", "", "solve failed or energy not finite; weight zero, counted in n"))
    other = run.evaluation.get("other_stereoisomer", run.samples.n_other_stereoisomer or None if run.samples is not None else None)
    if is_number(other):
        rows.append(("Samples of another stereoisomer", thousands(int(other)), "", "", "not of the target; weight zero, counted in n"))
    if is_number(run.evaluation.get("seconds_per_1000")):
        rows.append(
            ("Time per 1 000 samples", duration(run.evaluation["seconds_per_1000"]), "", "", "with exact log q, without compilation")
        )
    head = '<th>figure</th><th class="number">value</th><th class="number">95 % interval</th><th class="number">n</th><th></th>'
    body = "".join(
        f'<tr><td>{label}</td><td class="number"><b>{value}</b></td><td class="number">{interval}</td><td class="number">{n}</td>'
        f"<td><small>{remark}</small></td></tr>"
        for label, value, interval, n, remark in rows
    )
    words = f"<p>{drawn_for(run)}</p>"
    return section("Key figures", f'{words}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _weighted(run: Contents) -> tuple[Any, Float[np.ndarray, " n"] | None]:
    """Samples spread over all, and their log-weights; None for the latter where no sample has weight."""
    assert run.samples is not None
    samples = run.samples.take(correlation.spread(run.samples.n, MAX_SAMPLES))
    log_w = samples.log_weight
    return samples, log_w if samples.has_energy and np.isfinite(log_w).any() else None


def _energies(run: Contents) -> str:
    values: dict[str, tuple[Any, Any]] = {}
    if run.data_energies is not None:
        values["data"] = (run.data_energies, None)
    if run.samples is not None and run.samples.has_energy:
        samples, log_w = _weighted(run)
        values["flow"] = (samples.u, None)
        if log_w is not None:
            values["reweighted flow"] = (samples.u, log_w)
    if not values:
        return ""
    kt = run.system.temperature_in_words if run.system is not None else ""
    what = f"energies at {kt}" if kt else "energies"
    return _histogram_section(run, "Energies", "reduced energy u = U / kT", values, _energy_edges(values), what)


def _energy_edges(values: Mapping[str, tuple[Any, Any]]) -> Float[np.ndarray, " b_plus_1"]:
    """Bins over the reference, and as much of the flow's tails as leaves the reference readable."""
    finite = {name: array[np.isfinite(array)] for name, (array, _) in values.items()}
    reference = finite.get("data", finite.get("flow"))
    if reference is None or reference.size == 0:
        return np.linspace(0.0, 1.0, 61)
    low, high = np.quantile(reference, [0.001, 0.999])
    if "data" not in finite and "reweighted flow" in values:
        # Without data the weights tell where the target lies; clashes of the flow reach many orders of magnitude above it.
        array, log_w = values["reweighted flow"]
        drawn = array[weights.resample_indices(log_w, 4000, seed=0)]
        low, high = np.quantile(drawn, [0.0, 1.0])
        middle, spread = np.quantile(reference, 0.5), np.subtract(*np.quantile(reference, [0.75, 0.25]))
        high = max(high, min(middle + 2.0 * spread, high + 10.0 * max(high - low, 1.0)))
    width = max(high - low, 1e-6)
    if "flow" in finite and finite["flow"].size:
        flow_low, flow_high = np.quantile(finite["flow"], [0.01, 0.97])
        low, high = max(min(low, flow_low), low - width), min(max(high, flow_high), high + width)
    return np.linspace(low - 0.02 * width, high + 0.02 * width, 61)


def _distances(run: Contents) -> str:
    pairs = _of_configurations(run, pair_distances)
    near = _of_configurations(run, nearest_distances)
    if not pairs:
        return ""
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
) -> str:
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
    sentences += [f"no band of {name}: {escape(histogram.note)}" for name, histogram in shown.items() if histogram.note]
    outside = [f"{percent(h.outside)} of {name}" for name, h in shown.items() if h.outside > 0.005]
    if outside:
        sentences.append(f"outside the range shown: {', '.join(outside)}")
    caption = f"Histograms of {what} with 95\u202f% bands. " + sentence(sentences)
    return section(title, figure(figures.histograms(shown, xlabel), caption, f"Histograms of {what}: {', '.join(shown)}"))


def _nan_outside(values: Any) -> Any:
    """Infinite values count as outside every bin."""
    return np.where(np.isfinite(values), values, np.nan)


def _view(run: Contents) -> str:
    if run.samples is None or run.samples.positions.shape[2] not in (2, 3):
        return ""
    from boltzflow.report import figures

    indices = structures.representatives(run.samples)
    if len(indices) == 0:
        return ""
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
    return section("Samples", f"<p>{note}</p>{structures.view_3d(positions, energies, *_looks(run, classes), unit)}")


def _looks(run: Contents, classes: list[int]) -> tuple[list[int] | list[str], list[tuple[int, int]] | None]:
    """Classes, or elements and bonds of a molecule."""
    if run.system is None or not run.system.elements:
        return classes, None
    return list(run.system.elements), list(run.system.bonds)


def _weights(run: Contents) -> str:
    if run.samples is None or not run.samples.has_energy:
        return ""
    from boltzflow.report import figures

    log_w = run.samples.log_weight
    without = int(np.isneginf(log_w).sum())
    lost = f"{thousands(without)} of {thousands(log_w.size)} samples have no weight" if without else ""
    if without == log_w.size:
        return section("Weights", f'<p class="note">{sentence([lost])}</p>')
    k = weights.pareto_k(log_w)
    share = float(weights.normalized(log_w).max())
    parts = [f"the heaviest of {thousands(log_w.size)} samples carries {percent(share)} of all weight"]
    judged = weights.verdict(log_w).sentence
    parts.append(f"Pareto k = {k:.2f}, {judged}" if math.isfinite(k) else f"Pareto k: {judged}")
    caption = sentence([*parts, *([lost] if lost else [])])
    words = "<p>A perfect flow gives all samples the same weight. A few that are far heavier than the rest ruin every average.</p>"
    svg = figures.weight_distribution(log_w, k)
    return section("Weights", words + figure(svg, caption, "Histogram of the log-weights and their tail on logarithmic axes"))


def _training(run: Contents) -> str:
    if not run.metrics and not run.evaluations:
        return ""
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


def _durations(run: Contents) -> str:
    rows = [(LABELS.get(name, name.replace("_", " ")), duration(seconds)) for name, seconds in run_contents.durations(run)]
    return section("How long it took", table(rows)) if rows else ""


def _configuration(run: Contents) -> str:
    card = [(key.replace("_", " "), value) for key, value in run.card.items() if isinstance(value, str | int | float | bool)]
    source = [(key.replace("_", " "), short(value)) for key, value in run.provenance.items() if np.ndim(value) == 0]
    versions = [(key, value) for key, value in run.versions.items() if isinstance(value, str) and key not in ("date", "command")]
    tables: list[tuple[str, Callable[[], str]]] = [
        ("Versions", lambda: table(versions)),
        ("Model", lambda: table(card)),
        ("Reference data", lambda: table(source)),
    ]
    filled = [f"<div><h2>{title}</h2>{make()}</div>" for (title, make), rows in zip(tables, (versions, card, source), strict=True) if rows]
    sections = []
    if run.config_text.strip():
        sections.append(section("Configuration", f"<pre>{escape(run.config_text.strip())}</pre>"))
    if filled:
        sections.append(f'<section class="pair">{"".join(filled)}</section>')
    return "".join(sections)
