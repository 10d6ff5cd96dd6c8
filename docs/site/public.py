"""What is public: the names that the pages of the reference show, and whether each has a docstring that says what it must.

Read from the source, without importing it, so that tests and the build of the site can ask in a fraction of a second.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[2] / "src" / "boltzflow"
PAGES = Path(__file__).parents[1] / "api"
# Rooms whose `__init__` exports what people use.
ROOMS = (
    "datasets",
    "evaluation",
    "flows",
    "models",
    "nets",
    "objectives",
    "reference",
    "report",
    "sampling",
    "sampling.correct",
    "targets",
)
_DIRECTIVE = re.compile(r"^\.\. auto(function|class|exception|data):: boltzflow\.([\w.]+)$", re.MULTILINE)


class Name(NamedTuple):
    """A public function or class.

    Attributes:
        path: from the package on, as users write it.
        file: where it is defined.
        node: its definition; None for data.
    """

    path: str
    file: Path
    node: ast.FunctionDef | ast.ClassDef | None


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _file_of(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def exported(room: str) -> dict[str, str]:
    """Names that a room's `__init__` exports, and the modules that they come from; "" is the package itself."""
    file = _file_of(room)
    assert file is not None, room
    return {
        alias.asname: (node.module or "").removeprefix("boltzflow").removeprefix(".")
        for node in ast.walk(_parsed(file))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None and alias.asname == alias.name
    }


def found(path: str) -> Name:
    """The definition behind a public name, followed through the modules that export it.

    Raises:
        LookupError: if there is none.
    """
    module, _, name = path.rpartition(".")
    seen = module
    while (file := _file_of(seen)) is not None:
        for node in _parsed(file).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return Name(path, file, node)
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return Name(path, file, None)
        following = exported(seen).get(name)
        if following is None or following == seen:
            break
        seen = following
    raise LookupError(f"boltzflow.{path} is on a page of the reference, and is not there")


def shown() -> list[str]:
    """Public names on the pages of the reference, as users write them."""
    return [path for page in sorted(PAGES.glob("*.md")) for _, path in _DIRECTIVE.findall(page.read_text(encoding="utf-8"))]


def missing() -> list[str]:
    """Exported names that no page shows under any path; two of one name, such as options and what is made of them, count as one."""
    there = {path.rpartition(".")[2] for path in shown()}
    rooms = [("", ""), *((room, f"{room}.") for room in ROOMS)]
    wanted = {f"{before}{name}": f"{module}.{name}".lstrip(".") for room, before in rooms for name, module in exported(room).items()}
    return sorted(path for path, home in wanted.items() if _file_of(home) is None and path.rpartition(".")[2] not in there)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Public functions and methods with the paths by which users call them; of methods those that the pages show."""
    for path in shown():
        node = found(path).node
        if isinstance(node, ast.FunctionDef):
            yield path, node
        elif node is not None:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{path}.{method.name}", method


def faults() -> list[str]:
    """What is missing, in sentences."""
    told = [f"boltzflow.{path} is public, and no page of docs/api shows it" for path in missing()]
    for path in shown():
        node = found(path).node
        if node is not None and not ast.get_docstring(node):
            told.append(f"boltzflow.{path} has no docstring")
    told += [f"boltzflow.{path} has no docstring" for path, node in functions() if not ast.get_docstring(node)]
    return told
