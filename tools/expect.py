"""What to expect of a molecule: trains small ones by the preset `molecule`, as a newcomer would. Makes the table of docs/expect.md.

    python tools/expect.py [--only methanol ...] [--out runs/expect] [-n 10000] [--set OPTION=VALUE ...]

Each molecule is one `boltzflow train`, reference data included, and one `boltzflow evaluate`; a run that is finished is not trained again.
Seconds of reference and training are those of the clock, as the model card keeps them. CPU hours are those that the command took with all
its processes; half of them is the time on two cores that nothing else uses. They are kept in `cost.json` of the run, and grow where a run
is continued. N-methylacetamide is the structure of docs/molecule.md.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import boltzflow as bf
from boltzflow.analysis import Estimate

PAGE = Path(__file__).parents[1] / "docs" / "molecule.md"
_PROTEIN = ["--force-field", "amber14-all.xml", "implicit/obc1.xml", "--temperature", "300"]
_SMALL = ["--force-field", "charmm36.xml", "--temperature", "300"]
# What stands behind `boltzflow train`.
MOLECULES = {
    "methanol": ["smiles:CO", *_SMALL],
    "ethanol": ["smiles:CCO", *_SMALL],
    "N-methylacetamide": ["nma.pdb", "--force-field", "amber14-all.xml", "implicit/gbn2.xml", "--temperature", "300"],
    "alanine dipeptide": ["molecule"],
    "valine dipeptide": ["peptide:V", *_PROTEIN],
    "Ace-AAA-Nme": ["peptide:AAA", *_PROTEIN],
}
HEADER = ("molecule", "atoms", "steps", "reference / s", "training / s", "CPU / h", "reverse ESS", "E-W2 reweighted (floor)", "s per 1 000")


def cpu_hours() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 3600.0


def run(*words: str) -> None:
    """A `boltzflow` command; the first that fails ends all.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, "-m", "boltzflow", *words]
    print(f"$ boltzflow {' '.join(words)}", file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"boltzflow {words[0]} failed; what it says stands above.")


def train(name: str, folder: Path, options: list[str]) -> float:
    """Trains or continues a run, and tells what it has cost in all."""
    cost = folder / "cost.json"
    before = json.loads(cost.read_text())["cpu_hours"] if cost.exists() else 0.0
    began = cpu_hours()
    source, *rest = MOLECULES[name]
    if source == "nma.pdb":
        (structure,) = re.findall(r"^```pdb\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        folder.parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / source).write_text(structure, encoding="utf-8")
        source = str(folder.parent / source)
    run("train", source, *rest, "-o", str(folder), *(["--set", *options] if options else []))
    spent = before + cpu_hours() - began
    cost.write_text(json.dumps({"cpu_hours": spent}) + "\n")
    return spent


def text(entry: dict | None, factor: float = 1.0) -> str:
    """A cell."""
    return "" if entry is None else " ".join(Estimate.from_dict(entry).scaled(factor).texts()).strip()


def row(name: str, folder: Path, n: int, spent: float) -> list[str]:
    """The cells of a run."""
    if not (folder / "evaluation.json").exists():
        run("evaluate", str(folder), "-n", str(n))
    figures = json.loads((folder / "evaluation.json").read_text())
    card = json.loads((folder / "model.json").read_text())
    distance = (figures.get("e_w2") or {}).get("reweighted")
    floor = "" if distance is None else f" ({distance['floor']:.3g})"
    reference, training = (card["seconds"].get(part) or 0.0 for part in ("reference", "training"))
    return [
        name,
        str(bf.open_run(folder).target.n_particles),
        str(card["steps"]),
        f"{reference:.0f}",
        f"{training:.0f}",
        f"{spent:.2f}",
        text(figures["ess_reverse"], 100.0) + " %",
        text(distance) + floor,
        f"{figures['seconds_per_1000']:.1f}",
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MOLECULES), default=list(MOLECULES))
    parser.add_argument("--out", type=Path, default=Path("runs/expect"))
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--set", nargs="+", default=[], help="options of the preset, for all of them")
    arguments = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER), flush=True)
    for name in arguments.only:
        folder = arguments.out / name.replace(" ", "-")
        spent = train(name, folder, arguments.set)
        print("| " + " | ".join(row(name, folder, arguments.n, spent)) + " |", flush=True)


if __name__ == "__main__":
    main()
