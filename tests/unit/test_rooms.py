"""The arrows between rooms go one way: every import, lazy ones and those by name included, is computed from the source."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import boltzflow

SOURCE = Path(boltzflow.__file__).parent

# From the foundations to the front door; a room may import from rooms of floors below, and from earlier ones of its own floor.
FLOORS = (
    (
        *("errors", "extras", "command", "seeds", "files", "progress", "runtime", "cluster", "plugins", "display", "selection", "counting"),
        "shards",
    ),
    ("config",),
    ("geometry", "nets", "analysis", "chemistry", "blackbox"),
    ("targets",),
    ("datasets", "flows"),
    ("reference", "sampling", "objectives", "models"),
    ("evaluation",),
    ("report", "training"),
    ("register",),
    ("",),
    ("cli",),
    ("__main__",),
)
RANK = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}


def modules() -> dict[str, Path]:
    found = {}
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """Modules of ours that a module imports, wherever in its text, and those that its table of lazy names leads to."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module} imports relatively, which this test does not follow"
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "boltzflow":
            base = (node.module or "").removeprefix("boltzflow").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("boltzflow").lstrip(".") for alias in node.names if alias.name.startswith("boltzflow"))
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES":
            package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
            for home in ast.literal_eval(node.value).values():
                home = home if isinstance(home, str) else home[0]
                yield f"{package}.{home}".lstrip(".")


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_floor():
    assert {room(module) for module in MODULES} == set(RANK)


def test_arrows_between_rooms_go_one_way():
    back = [
        f"{module} -> {other or 'boltzflow'}"
        for module in MODULES
        for other in imports(module)
        if room(module) != room(other) and RANK[room(module)] <= RANK[room(other)]
    ]
    assert not back, f"against the arrows: {back}"


def test_modules_make_no_cycle():
    # A package's face imports its modules and they may import one another, never the face.
    graph = {module: {other for other in imports(module) if other != module} for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_chemistry_knows_no_target():
    assert not [module for module in MODULES if room(module) == "chemistry" and any(room(other) == "targets" for other in imports(module))]
