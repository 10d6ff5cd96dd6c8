"""The key figures of a run: tiles at the head of the page, and their table."""

import math
from typing import NamedTuple

from markupsafe import Markup

from boltzflow.analysis import metrics, tails, weights
from boltzflow.analysis.estimate import Estimate
from boltzflow.report.contents import Contents, is_number
from boltzflow.report.header import drawn_for, from_evaluation, origin
from boltzflow.report.page import EMPTY, duration, filled, known, numbers, section, thousands


class Tile(NamedTuple):
    """A figure in large letters."""

    label: str
    value: str
    remark: str


class Row(NamedTuple):
    """A figure in the table."""

    label: str
    value: str
    interval: str = ""
    n: str = ""
    remark: str = ""


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
    return weights.pareto_k(run.samples.log_weight) if run.samples is not None and _independent(run) else math.nan


def _independent(run: Contents) -> bool:
    """Whether the tail of the samples' weights tells anything: they are draws, with an energy, and do not hang together."""
    return run.samples is not None and run.samples.has_energy and not run.samples.grouped


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
    if run.samples is not None and _independent(run):
        return weights.verdict(run.samples.log_weight).sentence
    return "too few or too equal weights to tell"


def tiles(run: Contents) -> Markup:
    """The most telling figures; empty where there are none."""
    found: list[Tile] = []
    for key, label, factor, unit in (
        ("ess_reverse", "Reverse ESS", 100.0, "\u202f%"),
        ("ess_forward", "Forward ESS", 100.0, "\u202f%"),
        ("nll_minus_entropy", "NLL − entropy (0: perfect)", 1.0, "\u202fnats"),
    ):
        estimate = _estimate(run, key)
        if estimate is not None:
            value, interval = numbers(estimate, factor)
            parts = (interval, f"n = {thousands(estimate.n)}", origin(run, key))
            found.append(Tile(label, f"{value}{unit}", ", ".join(part for part in parts if part)))
    k = _pareto_k(run)
    if math.isfinite(k):
        found.append(Tile("Pareto k of the weights", f"{k:.2f}", f"{_verdict(run)} ({origin(run, 'pareto_k')})"))
    return filled("tiles.html", tiles=found) if found else EMPTY


def figures_table(run: Contents) -> Markup:
    """The section of the key figures; empty where there are none."""
    exact = run.target.exact if run.target is not None else None
    log_z = known(exact.log_z, exact.log_z_error) if exact is not None else ""
    entropy = known(exact.entropy, exact.entropy_error) if exact is not None else ""
    rows: list[Row] = []
    for key, label, remark in (
        ("ess_reverse", "Reverse ESS", "effective sample size after reweighting, as a share of n"),
        ("ess_forward", "Forward ESS", "the same seen from reference data; drops where the flow misses modes"),
        ("ess_reverse_trimmed", "Reverse ESS, trimmed", ""),
        ("ess_forward_trimmed", "Forward ESS, trimmed", ""),
        ("nll", "NLL / nats", f"no flow can be below the entropy, {entropy}" if entropy else ""),
        ("nll_minus_entropy", "NLL − entropy / nats", "Kullback-Leibler divergence of the flow from the target"),
        ("ess_reverse_marginal", "Reverse ESS, marginal", "copies averaged out; the joint one above counts their noise, too"),
        ("nll_one_draw", "NLL, one draw / nats", "with a single draw of the copies; the gap to NLL is what averaging gains"),
        ("ess_of_draws", "ESS of the draws", "of the copies, as a share of their number"),
        ("log_z", "log Z", f"known: {log_z}" if log_z else ""),
        ("log_z_bar", "log Z, with frames", "by Bennett's acceptance ratio, from samples and reference frames together"),
        ("eubo", "EUBO", "mean of −u − log q over the frames: above log Z by the divergence of the flow from the target"),
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
        remark = "; ".join(part for part in (remark, estimate.note) if part)
        rows.append(Row(label, value + ("\u202f%" if percent else ""), interval, thousands(estimate.n) + effective, remark))
    if not rows:
        return EMPTY
    k = _pareto_k(run)
    counted = run.evaluation.get("n") if from_evaluation(run, "pareto_k") else run.samples.n if run.samples is not None else None
    n = thousands(int(counted)) if is_number(counted) else ""
    if from_evaluation(run, "pareto_k") or _independent(run):
        rows.append(Row("Pareto k", f"{k:.2f}" if math.isfinite(k) else "–", n=n, remark=_verdict(run)))
    failed = run.evaluation.get("failed", run.samples.n_failed if run.samples is not None else None)
    if is_number(failed):
        rows.append(Row("Failed samples", thousands(int(failed)), remark="solve failed or energy not finite; weight zero, counted in n"))
    other = run.evaluation.get("other_stereoisomer", run.samples.n_other_stereoisomer or None if run.samples is not None else None)
    if is_number(other):
        rows.append(Row("Samples of another stereoisomer", thousands(int(other)), remark="not of the target; weight zero, counted in n"))
    if is_number(run.evaluation.get("seconds_per_1000")):
        spent = duration(run.evaluation["seconds_per_1000"])
        rows.append(Row("Time per 1 000 samples", spent, remark="with exact log q, without compilation"))
    for kind, spent in (run.evaluation.get("energies") or {}).items():
        if isinstance(spent, dict) and is_number(spent.get("total")):
            split = f"{thousands(spent['gradients'])} with gradient; both count alike"
            rows.append(Row(f"Evaluations of the energy, {kind}", thousands(spent["total"]), remark=split))
    return section("Key figures", filled("key_figures.html", rows=rows), words=drawn_for(run))
