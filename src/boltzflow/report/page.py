"""The pieces of the page: its style, tables, figures, and numbers in words."""

import base64
import html
from typing import Any

import numpy as np

from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import Estimate

POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; worker-src blob:"
"""What the browser may load: nothing but what is in the page. Plotly's WebGL layer compiles its code, hence unsafe-eval."""

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: #222b33; font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 0 0 10px; }
p { margin: 6px 0 12px; max-width: 78ch; }
section { background: #fff; border: 1px solid #e1e6ea; border-radius: 10px; padding: 20px 24px; margin-top: 18px; }
.facts { color: #56616b; font-size: 14px; margin: 2px 0; max-width: none; overflow-wrap: anywhere; }
.facts code { font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.legend span { display: inline-block; margin-right: 16px; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 50%; border: 1px solid #9aa3ab; margin-right: 5px;
            vertical-align: -2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: #fff; border: 1px solid #e1e6ea; border-radius: 10px; padding: 14px 18px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span, .tile small { color: #56616b; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid #edf0f2; vertical-align: top; }
th { color: #56616b; font-weight: 600; font-size: 13px; }
td.number, th.number { text-align: right; white-space: nowrap; }
td small { color: #56616b; }
.scroll { overflow-x: auto; }
figure { margin: 4px 0 0; }
figure img { display: block; width: 100%; height: auto; max-width: 940px; }
figcaption, .note { color: #56616b; font-size: 14px; max-width: 82ch; }
.note { background: #fff8e6; border: 1px solid #f0dfae; border-radius: 8px; padding: 8px 14px; color: #5c4a10; max-width: none; }
pre { background: #f6f8fa; border: 1px solid #e1e6ea; border-radius: 8px; padding: 12px 16px; overflow: auto; max-height: 460px;
      font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 24px; }
.pair > div { min-width: 0; overflow-x: auto; }
.view { width: 100%; height: min(560px, 120vw); }
footer { color: #56616b; font-size: 13px; margin-top: 22px; }
@media (max-width: 640px) {
  main { padding: 16px 10px 40px; }
  h1 { font-size: 21px; }
  section { padding: 14px 12px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
  .tile { padding: 10px 12px; }
  .tile b { font-size: 20px; }
  /* Letters in a drawing stay readable: the drawing is moved sideways instead. */
  figure .scroll img { width: 620px; max-width: none; }
}
"""


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
    note = f", {escape(distance.note)}" if distance.note else ""
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


def table(rows: list[tuple[str, Any]]) -> str:
    """Two columns of escaped text."""
    return "<table>" + "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows) + "</table>"


def section(title: str, content: str) -> str:
    """A titled box; the content is HTML."""
    return f"<section><h2>{title}</h2>{content}</section>\n"


def figure(svg: str, caption: str, alternative: str) -> str:
    """An SVG drawing with its caption (HTML) and a text for those who cannot see it."""
    # As an image, because the ids and styles of several inline drawings would meet.
    data = base64.b64encode(svg.encode()).decode()
    image = f'<div class="scroll"><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}"></div>'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def escape(value: object) -> str:
    """Text from files, safe inside HTML."""
    return html.escape(str(value), quote=True)
