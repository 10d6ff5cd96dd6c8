"""The scorecard of a run: distances of samples from reference frames, each beside its floor."""

from typing import NamedTuple

from markupsafe import Markup

from boltzflow.analysis.estimate import Estimate, significant
from boltzflow.display import SCORES
from boltzflow.report.contents import Contents, is_number
from boltzflow.report.page import EMPTY, filled, numbers, section, thousands


class Row(NamedTuple):
    """A distance in the table."""

    label: str
    samples: str
    value: str
    interval: str
    floor: str
    n: str
    remark: str


WORDS = (
    "Distances of the samples from reference frames as published tables print them. The floor is what two independent sets of reference "
    "frames of that size are apart: no distance can be expected below it. The interval is that of the distance of the densities, and holds "
    "0 where no difference can be told."
)


def table(run: Contents) -> Markup:
    """The section of the scorecard; empty where the run has not been evaluated with one."""
    rows: list[Row] = []
    for key, label in SCORES.items():
        entry = run.evaluation.get(key)
        for name, figure in entry.items() if isinstance(entry, dict) else ():
            if not isinstance(figure, dict) or not is_number(figure.get("value")):
                continue
            estimate = Estimate.from_dict(figure)
            value, interval = numbers(estimate)
            floor = significant(figure["floor"]) if is_number(figure.get("floor")) else ""
            rows.append(Row(label, name, value, interval, floor, thousands(estimate.n), estimate.note))
    return section("Scorecard", filled("scorecard.html", rows=rows), words=WORDS) if rows else EMPTY
