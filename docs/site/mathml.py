"""Formulas as MathML, which browsers set by themselves: pages need no script and no font for them, and work offline."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

# A letter with an accent and an index: docutils sets the index below the letter, as if it were a limit.
_ACCENT = re.compile(
    r"<munderover>\s*(<mi>[^<]*</mi>)\s*(<mi>[^<]*</mi>|<mrow>.*?</mrow>)\s*(<mo[^>]*>[˙ˆ¯˜]</mo>)\s*</munderover>", re.DOTALL
)

# Functions need a space before what they act on, which docutils leaves out.
_FUNCTION = re.compile(r"(\\(?:ln|det|tanh|sin|cos)|\\operatorname\{tr\})\s+(?=[A-Za-z\\])")


def setup(app: Any) -> dict[str, bool]:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def converted(tex: str, *, block: bool) -> str:
    """A formula in MathML.

    Raises:
        ExtensionError: if a formula cannot be read.
    """
    if block and "\\\\" in tex and "\\begin" not in tex:
        tex = f"\\begin{{aligned}}{tex}\\end{{aligned}}"
    tex = _FUNCTION.sub(r"\1\\, ", tex)
    try:
        return _ACCENT.sub(r'<msub><mover accent="true">\1\3</mover>\2</msub>', str(tex2mathml(tex, as_block=block)))
    except MathError as error:
        raise ExtensionError(f"a formula cannot be set: {error}: {tex}") from error


def _inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(converted(node.astext(), block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(writer.starttag(node, "div", CLASS="formula"))
    writer.body.append(converted(node.astext(), block=True))
    if node["number"]:
        writer.body.append(f'<span class="number">({node["number"]})</span>')
    writer.body.append("</div>")
    raise nodes.SkipNode
