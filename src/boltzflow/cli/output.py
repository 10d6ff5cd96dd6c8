"""Tables and figures on the terminal. Results go to stdout, everything else to stderr."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boltzflow.display import COMPARISON, LABELS, SCORES, SHARES


def say(sentence: str) -> None:
    """Prints a sentence to stderr."""
    print(sentence, file=sys.stderr)


def next_steps(run: Path) -> str:
    """What to do with a trained run, in commands."""
    return f"`boltzflow evaluate {run}`, `boltzflow sample {run} -n 10000 -o {run / 'samples.h5'}`, then `boltzflow report {run}`"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), whole: Sequence[int] = ()
) -> None:
    """Prints a table to stdout.

    Args:
        title: heading; empty for none.
        columns: column names.
        rows: cells.
        right: indices of the columns that are aligned to the right.
        whole: of those whose cells are not folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        drawn.add_column(name, justify="right" if index in right else "left", overflow="fold", no_wrap=index in whole)
    for row in rows:
        drawn.add_row(*row)
    Console(markup=False, highlight=False).print(drawn)


def evaluation(figures: Mapping[str, Any]) -> None:
    """Prints the figures of an evaluation as a table, intervals beside the values."""
    # NumPy and SciPy come with it; other commands print without them.
    from boltzflow.analysis.metrics import TOLERABLE_ERROR

    rows = [(label, *cells(name, figures[name])) for name, label in LABELS.items() if name in figures]
    spent = {kind: found for kind, found in (figures.get("energies") or {}).items() if found is not None}
    rows += [(f"evaluations of the energy, {kind}", f"{found['total']:,}", "", "") for kind, found in spent.items()]
    table(f"{figures.get('model')} on {figures.get('target')}", ("", "value", "95 % interval", "n"), rows, right=(1, 2, 3))
    scorecard(figures)
    remarks(figures)
    error = (figures.get("solver_error") or {}).get("value")
    if error is not None and error > TOLERABLE_ERROR:
        say(
            f"The solver's error of log q, {error:.2g}, makes NLL, ESS and log Z unreliable; raise flow.solver.nodes (or steps, or lower "
            "rtol and atol of the solver), and evaluate again."
        )


def scorecard(figures: Mapping[str, Any]) -> None:
    """Prints the scorecard of an evaluation, as far as it applies: distances beside their floor."""
    rows = []
    for name, label in SCORES.items():
        for part, value in (figures.get(name) or {}).items():
            if value.get("value") is not None:
                rows.append((label, part, *cells(name, value)[:2], number(value.get("floor")), str(value["n"])))
    if rows:
        table(
            "Scorecard: distances from reference frames", ("", "samples", "value", "95 % interval", "floor", "n"), rows, right=(2, 3, 4, 5)
        )


def cells(name: str, value: Any) -> tuple[str, str, str]:
    """Value, interval and n of a figure in words; `-` where there is none."""
    if not isinstance(value, Mapping):
        return (number(value), "", "")
    from boltzflow.analysis.estimate import Estimate

    scale, unit = (100.0, " %") if name in SHARES else (1.0, "")
    estimate = Estimate.from_dict(value)
    if math.isnan(estimate.value):
        return ("-", "", str(value.get("n", "")))
    shown, interval = estimate.scaled(scale).texts()
    if interval.startswith("["):
        interval = interval[1:-1].replace(", ", " to ")
    n = str(estimate.n) if estimate.n_effective is None else f"{estimate.n} ({estimate.n_effective:.0f} effective)"
    return (shown + unit, interval + (unit if interval and interval != "no interval" else ""), n)


def remarks(figures: Mapping[str, Any]) -> None:
    """Says on stderr what an interval cannot, once for each reason, and whether the weights can be trusted."""
    reasons: dict[str, list[str]] = {}
    for name, label in LABELS.items():
        value = figures.get(name)
        if isinstance(value, Mapping) and value.get("note") and name not in COMPARISON:
            reasons.setdefault(str(value["note"]), []).append(label)
    for name, label in SCORES.items():
        # What does not apply is not in the table either.
        shown = {part: value for part, value in (figures.get(name) or {}).items() if value["value"] is not None}
        noted = {part: value["note"] for part, value in shown.items() if value.get("note")}
        for part, note in noted.items():
            both = len(noted) > 1 and len(set(noted.values())) == 1
            told = reasons.setdefault(str(note), [])
            if not both or label not in told:
                told.append(label if both else f"{label} ({part})")
    for reason, labels in reasons.items():
        say(f"{', '.join(labels)}: {reason}.")
    found = figures.get("verdict")
    if found is not None:
        sentence = found if isinstance(found, str) else str(found.get("sentence"))
        say(f"Weights: {sentence}.")


def number(value: Any, *, scale: float = 1.0) -> str:
    """A number in four digits; `-` for none."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int | str) and scale == 1.0 else f"{scale * float(value):.4g}"
