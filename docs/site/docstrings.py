"""Docstrings of the package are plain text with `code` in single backticks; here they are made ready for reStructuredText."""

import inspect
import re
from typing import Any

import public
from docutils import nodes
from sphinx.domains.python import PyObject
from sphinx.errors import ExtensionError

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
# What reStructuredText would take for emphasis, a substitution or a reference.
_SPECIAL = re.compile(r"([*|\\]|_(?!\w))")


def setup(app: Any) -> dict[str, bool]:
    """Connects the steps; docstrings are escaped before Napoleon reads their sections."""
    app.connect("builder-inited", _complete)
    app.connect("autodoc-process-docstring", _escape, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _shown)
    for kind in PyObject.doc_field_types:
        if kind.name == "variable":
            kind.label = "Attributes"
    app.connect("missing-reference", _elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def escaped(line: str) -> str:
    """A line with code as reStructuredText marks it, and the rest as it stands."""
    parts = _CODE.split(line)
    return "".join(f"``{part.strip('`')}``" if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def _escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    shown = False
    for place, line in enumerate(lines):
        # Examples, and what they print, stand as they are.
        shown = line.lstrip().startswith((">>>", "...")) or (shown and bool(line.strip()))
        if not shown:
            lines[place] = escaped(line)


def _shown(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples stand under `Attributes:` of their class already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> tuple[str, str] | None:
    """Of a class: names and defaults, whose types stand with the attributes; of all else what autodoc has found."""
    if what != "class" or not signature:
        return None
    words, keywords = [], False
    for parameter in inspect.signature(obj).parameters.values():
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            words, keywords = [*words, "*"], True
        words.append(parameter.name + ("" if parameter.default is parameter.empty else f"={_short(parameter.default)}"))
    return f"({', '.join(words)})", ""


def _short(default: Any) -> str:
    """A default in a word."""
    if isinstance(default, bool | int | float | str | type(None)) or default == ():
        return repr(default)
    return "..." if type(default).__module__.startswith("dataclasses") else f"{type(default).__name__}()"


def _complete(app: Any) -> None:
    faults = public.faults()
    if faults:
        raise ExtensionError("; ".join(faults))


def _elsewhere(app: Any, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """A short name, such as that of an error, leads to the one object that has it; what is not ours is left as text."""
    if node["refdomain"] != "py":
        return None
    domain, wanted = env.get_domain("py"), node["reftarget"].split(".")[-1]
    found = [name for name in domain.objects if name.split(".")[-1] == wanted]
    ours = node["reftarget"].startswith("boltzflow.")
    if len({domain.objects[name].node_id for name in found}) != 1:
        return None if ours else content
    entry = domain.objects[found[0]]
    return nodes.reference(
        "", "", content, internal=True, refuri=app.builder.get_relative_uri(env.docname, entry.docname) + "#" + entry.node_id
    )
