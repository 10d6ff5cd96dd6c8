"""Measures the shipped models and writes their figures, with today's intervals, into their cards.

    python tools/measure_models.py [--only dw4 lj13 ...] [--scale 1.0]

Prints a row of docs/results.md for each. The numbers of samples are those of N, times --scale.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import boltzflow as bf
from boltzflow.analysis import Estimate

FOLDER = Path(__file__).parents[1] / "src" / "boltzflow" / "pretrained"
# As many as a few minutes on two cores allow.
N = {
    "dw4": 10_000,
    "lj13": 5_000,
    "lj55": 256,
    "alanine-dipeptide": 1_000,
    "dw4-eacf": 10_000,
    "lj13-eacf": 4_000,
    "lj13-once-eacf": 4_000,
    "alanine-dipeptide-eacf": 2_000,
    "qm9-eacf": 1_000,
}
KEPT = "n nll nll_one_draw nll_minus_entropy ess_reverse ess_reverse_marginal ess_forward log_z path_length nfe pareto_k".split()
KEPT += ["solver_error", "failed"]
SHOWN = ("nll", "nll_minus_entropy", "ess_reverse", "ess_reverse_marginal", "ess_forward", "log_z")


def text(value: dict[str, Any] | None, percent: bool) -> str:
    """An estimate as a cell of a table."""
    if value is None:
        return ""
    estimate = Estimate.from_dict(value).scaled(100.0 if percent else 1.0)
    worth = "" if estimate.n_effective is None else f" (worth {estimate.n_effective:.0f})"
    return " ".join(estimate.texts()).strip() + worth


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(N), default=list(N))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| model | n | NLL | NLL - entropy | reverse ESS, % | averaged over copies, % | forward ESS, % | log Z | Pareto k |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.only:
        n = max(16, round(arguments.scale * N[name]))
        figures = bf.load_model(name).evaluate(n, seed=arguments.seed, progress=False)
        cells = [text(figures.get(key), key.startswith("ess")) for key in SHOWN]
        k = figures.get("pareto_k")
        print(f"| `{name}` | {n} | {' | '.join(cells)} | {'' if k is None else f'{k:.2f}'} |", flush=True)
        card = json.loads((FOLDER / f"{name}.json").read_text())
        timed = card["figures"].get("seconds_per_1000")
        card["figures"] = {key: figures[key] for key in KEPT if figures.get(key) is not None}
        # The time is that of the machine that it was measured on when it had nothing else to do.
        card["figures"]["seconds_per_1000"] = timed
        (FOLDER / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
