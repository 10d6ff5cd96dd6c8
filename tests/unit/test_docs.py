"""What the documentation names is there: files and tests of the theory, public names of the reference, links between pages."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
THEORY = sorted((DOCS / "theory").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "api").glob("*.md")),
    *sorted((DOCS / "notebooks").glob("*.md")),
    *THEORY,
]
FILE = re.compile(r"`((?:[\w-]+/)+[\w.-]+\.py)((?:::\w+)*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def load(path: Path) -> Any:
    """A module of the site, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


public = load(DOCS / "site" / "public.py")


def place(name: str) -> Path:
    """The file that a page names: of the repository, or of the package."""
    return next((path for path in (ROOT / name, ROOT / "src" / "boltzflow" / name) if path.is_file()), ROOT / name)


def holds(file: Path, names: list[str]) -> bool:
    """Whether a file defines a function, or a class with a method."""
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    for name in names:
        nodes = [
            child
            for node in nodes
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name
        ]
    return bool(nodes)


@pytest.mark.parametrize("page", [page for page in THEORY if page.stem != "index"], ids=lambda page: page.stem)
def test_what_the_theory_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    named = FILE.findall(text)
    assert len(named) >= 4
    wrong = [name + inside for name, inside in named if not holds(place(name), inside.split("::")[1:])]
    assert not wrong
    # Each line of the table has a file of the package, or a benchmark, and a test.
    rows = [line.split("|") for line in text.partition("| what | code | test |")[2].splitlines()[2:] if line.startswith("|")]
    assert len(rows) >= 4
    for row in rows:
        assert FILE.search(row[2]), row
        assert "tests/" in row[3] or "benchmarks/" in row[2], row


def test_a_wrong_name_would_be_found():
    here = Path(__file__)
    assert holds(here, [])
    assert holds(here, ["test_a_wrong_name_would_be_found"])
    assert not holds(here, ["test_that_is_not_there"])
    assert not holds(here, ["test_a_wrong_name_would_be_found", "inside"])
    assert not place("flows/nothing.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


def anchors(file: Path) -> set[str]:
    """Names of the headings of a page, as links write them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_public_name_is_on_a_page_with_a_docstring():
    assert len(public.shown()) > 150
    assert public.faults() == []
    assert len(public.shown()) == len(set(public.shown()))


def test_what_is_not_there_is_told():
    with pytest.raises(LookupError, match="not there"):
        public.found("targets.nothing")
    assert public.found("Samples").file.name == "samples.py"
    assert public.found("targets.lennard_jones").file.name == "lennard_jones.py"


def test_every_public_function_names_its_arguments_and_what_it_returns():
    unsaid, seen = [], 0
    for path, node in public.functions():
        arguments = node.args
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if one.arg not in ("self", "cls")]
        explained = set(re.findall(r"^    (\w+): \S", (ast.get_docstring(node) or "").partition("Args:\n")[2], flags=re.MULTILINE))
        unsaid += [f"{path}: {name}" for name in names if name not in explained]
        unsaid += [] if node.returns is not None else [f"{path} returns"]
        seen += len(names)
    assert seen > 300
    assert not unsaid


def test_options_of_public_classes_are_explained():
    """Fields of data classes and named tuples stand under `Attributes:`, in the class or in one that it is derived from."""
    unsaid, seen = [], 0
    for path in public.shown():
        node = public.found(path).node
        if not isinstance(node, ast.ClassDef) or not any("dataclass" in ast.unparse(one) for one in (*node.decorator_list, *node.bases)):
            continue
        told = set(re.findall(r"^    (\w+): \S", (ast.get_docstring(node) or "").partition("Attributes:\n")[2], flags=re.MULTILINE))
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and "ClassVar" not in ast.unparse(field.annotation):
                seen += 1
                unsaid += [] if field.target.id in told or field.target.id.startswith("_") else [f"{path}.{field.target.id}"]
    assert seen > 100
    assert not unsaid
