"""The pieces of the page: templates with values in them, and numbers in words."""

import base64
import functools
from collections.abc import Iterable
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import Estimate

EMPTY = Markup()


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("boltzflow.report")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def filled(template: str, **values: Any) -> Markup:
    """A template with values in it: text is escaped, `Markup` goes in as it is."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704 (text has been escaped by the template)


def numbers(estimate: Estimate, factor: float = 1.0) -> tuple[str, str]:
    """Value and interval with the digits that the interval carries."""
    value, interval = estimate.scaled(factor).texts()
    return _typeset(value), _typeset(interval)


def _typeset(text: str) -> str:
    """Minus signs and infinities as they are printed."""
    return text.replace("-", "−").replace("inf", "∞").replace("nan", "–")


def percent(share: float) -> str:
    """A share in percent with the digits that tell: "0.52 %", "9.7 %", "43 %", "99.6 %", "100 %"; never more than there is."""
    value = 100.0 * share
    if value == 0.0 or value >= 99.95:
        shown = f"{value:.0f}"
    elif value < 10.0:
        shown = f"{value:.2g}" if value >= 1e-3 else "< 0.001"
    else:
        shown = f"{value:.0f}" if value < 99.0 else f"{value:.1f}"
    return f"{shown}\u202f%"


def apart(distance: Distance) -> str:
    """A distance with its interval, beside what is seen between two sets of the same density."""
    value, interval = numbers(distance)
    note = f", {distance.note}" if distance.note else ""
    return f"{value} {interval}{note} ({distance.beside()})"


def known(value: float | None, error: float) -> str:
    """A known value with its standard error if it has one; empty if it is not known."""
    if value is None:
        return ""
    decimals = len(f"{error:g}".partition(".")[2]) if error else 4
    return f"{value:.{decimals}f}" + (f" ± {error:g}" if error else "")


def thousands(number: int) -> str:
    """A number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def sentence(parts: list[str]) -> str:
    """Parts joined to one sentence; empty if there are none."""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def duration(seconds: float) -> str:
    """Seconds in words: "0.82 s", "3 min 12 s", "2 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short(value: Any) -> Any:
    """A float in six digits, anything else as it is."""
    return f"{float(value):.6g}" if isinstance(value, float | np.floating) else value


def table(rows: Iterable[tuple[str, Any]]) -> Markup:
    """Two columns."""
    return filled("table.html", rows=rows)


def section(title: str, content: Markup = EMPTY, *, words: str = "", note: str = "", code: str = "") -> Markup:
    """A titled box: a paragraph, a note, a listing and what follows them, as far as they are given."""
    return filled("section.html", title=title, content=content, words=words, note=note, code=code)


def figure(svg: str, caption: str, alternative: str) -> Markup:
    """An SVG drawing with its caption and a text for those who cannot see it."""
    # As an image, because the ids and styles of several inline drawings would meet.
    return filled("figure.html", data=base64.b64encode(svg.encode()).decode(), caption=caption, alternative=alternative)
