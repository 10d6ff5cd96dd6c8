"""Builds what is released and tries it where nothing else is: `make release-check`.

    python tools/release_check.py                      # every Python from 3.11 to 3.13 that is there, core and each extra
    python tools/release_check.py --extras             # the core alone
    python tools/release_check.py --extras report all  # and with these extras
    python tools/release_check.py --only build         # without installing

Checked are the version (one place, as CITATION.cff and CHANGELOG.md have it), what wheel and source archive hold, that building twice gives
the same bytes, the metadata (twine, where it is installed), and in a fresh environment for each Python: size, commands, shipped models,
the time from the prompt to 1 000 samples, and of each extra what it is for. Interpreters that are missing are fetched by uv, if it can.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# JAX with what it needs cannot be made smaller; this bounds what comes beside it.
OF_JAX = ("jax", "jaxlib", "ml_dtypes", "numpy", "numpy.libs", "opt_einsum", "scipy", "scipy.libs")
MOST_MB_BESIDE = 100
EXTRAS = ("train", "evaluate", "report", "molecules", "smiles", "xtb", "tracking", "cluster", "all")
# What each extra is for, in a few seconds; `python` stands for that of the environment.
_PLOTS = """import boltzflow as bf
samples = bf.Samples.load("samples.h5")
samples.plot_energy(), samples.plot_weights(), samples.view().save("view.html")
"""
USES = {
    "train": "boltzflow train dw4 -o run --set data.n=256 data.validation=0 "
    "stages.0.steps=2 stages.0.batch_size=32 stages.0.microbatch=32 stages.1=null",
    "evaluate": "boltzflow evaluate dw4-eacf -n 200",
    "report": f"python -c '{_PLOTS}'",
    "molecules": """python -c 'import boltzflow as bf; print(bf.targets.alanine_dipeptide("ff99").fingerprint)'""",
    "smiles": "python -c 'from rdkit import Chem'",
    "xtb": "python -c 'import ase, tblite.ase'",
    "tracking": "python -c 'import tensorboardX'",
    "cluster": "python -c 'import distributed'",
}
# And what the core says in its place.
WITHOUT = {"train": "train dw4", "evaluate": "evaluate dw4", "report": "report run"}
MOST_SECONDS = 60.0
IN_ARCHIVE = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "tests/", "docs/", "examples/", "tools/")
# Addresses of package indices and folders of machines have no place in what is released.
FOREIGN = re.compile(rb"/work/\w|/root/\w|/home/(?!someone)\w|index-url|files\.pythonhosted|/simple/")

faults: list[str] = []


def check(holds: bool, sentence: str) -> None:
    """Prints what was looked at, and remembers what does not hold."""
    print(f"{'ok  ' if holds else 'FAIL'}  {sentence}")
    if not holds:
        faults.append(sentence)


def versions() -> str:
    """The version, which all files must tell alike."""
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "src/boltzflow/__init__.py").read_text(), re.MULTILINE)
    check(f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(), f"CITATION.cff has version {version}")
    heading = re.search(rf"^## {re.escape(version)}( |$).*\n+(.+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    check(heading is not None, f"CHANGELOG.md has a section for {version}")
    return version


def built(folder: Path) -> list[Path]:
    """Wheel and source archive in a folder."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return sorted(folder.iterdir())


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def archives(folder: Path, version: str) -> Path:
    """Builds twice and looks into what comes out; the wheel."""
    files = built(folder / "first")
    again = built(folder / "second")
    check([digest(file) for file in files] == [digest(file) for file in again], "building twice gives the same bytes")
    (archive,) = (file for file in files if file.name.endswith(".tar.gz"))
    (wheel,) = (file for file in files if file.suffix == ".whl")
    check(all(version in file.name for file in files), f"{wheel.name}, {archive.name}")
    with tarfile.open(archive) as opened:
        members = {member.name.split("/", 1)[-1]: member for member in opened if member.isfile()}
        missing = [name for name in IN_ARCHIVE if not any(held.startswith(name) for held in members)]
        texts = [name for name in members if name.endswith((".py", ".md", ".toml", ".lock", ".yaml", ".cff", ".json"))]
        foreign = [name for name in texts if _foreign(name, opened.extractfile(members[name]).read())]  # type: ignore[union-attr]
    check(not missing, f"source archive: {len(members)} files, {archive.stat().st_size / 1e6:.1f} MB; missing: {missing or 'nothing'}")
    check(not foreign, f"addresses of indices and folders of machines in the archive: {foreign or 'none'}")
    check(not [name for name in members if "_build/" in name], "nothing that was built is in the archive")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    kinds = {kind: sum(name.endswith(kind) for name in names) for kind in (".py", ".yaml", ".safetensors", ".json")}
    check(kinds[".yaml"] > 20 and kinds[".safetensors"] > 5, f"wheel: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB, {kinds}")
    check(all(name.startswith(("boltzflow/", f"boltzflow-{version}.dist-info/")) for name in names), "the wheel holds the package alone")
    twine(files)
    return wheel


def _foreign(name: str, content: bytes) -> bool:
    # This file names what it looks for.
    return name != "tools/release_check.py" and FOREIGN.search(content) is not None


def twine(files: list[Path]) -> None:
    """Metadata and README, as an index would show them; by twine, installed or fetched by uv."""
    for words in ([sys.executable, "-m", "twine"], *([["uvx", "--quiet", "twine"]] if shutil.which("uvx") else [])):
        if subprocess.run([*words, "--version"], capture_output=True, check=False).returncode == 0:
            done = subprocess.run([*words, "check", "--strict", *files], capture_output=True, text=True, check=False)
            # It colours what it says even where nobody looks.
            said = re.sub(r"\x1b\[\d*m", "", done.stdout)
            check(done.returncode == 0, f"twine check: {' '.join(said.split())[-200:]}")
            return
    print("--    twine is not installed: metadata and README were not rendered")


def interpreter(version: str) -> str | None:
    """A Python of that version, of the PATH, among those of pyenv, or fetched by uv; None if there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in (f"python{version}", *sorted(map(str, root.glob(f"{version}.*/bin/python")))):
        # A name on the PATH may be a shim of something that is not there.
        if shutil.which(name) and subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0:
            return name
    if shutil.which("uv"):
        subprocess.run(["uv", "python", "install", "--quiet", version], capture_output=True, check=False)
        found = subprocess.run(["uv", "python", "find", "--managed-python", version], capture_output=True, text=True, check=False)
        return found.stdout.strip() or None
    return None


def sizes(packages: Path) -> dict[str, float]:
    """MB of each thing in a folder of packages, without what Python compiles."""
    return {
        entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file() and "__pycache__" not in file.parts) / 1e6
        for entry in packages.iterdir()
    }


def tried(wheel: Path, version: str, extra: str, folder: Path) -> None:
    """Installs the wheel where nothing else is, and runs what a user would run first."""
    label = f"Python {version}{f' [{extra}]' if extra else ''}"
    python = interpreter(version)
    if python is None:
        print(f"--    {label}: there is none here, and none can be fetched")
        return
    place = folder / f"{version}-{extra}"
    subprocess.run([python, "-m", "venv", place], check=True)
    inside = place / "bin" / "python"
    named = f"{wheel}[{extra}]" if extra else str(wheel)
    words = ["uv", "pip", "install", "--python", inside] if shutil.which("uv") else [inside, "-m", "pip", "install", "--quiet"]
    began = time.perf_counter()
    done = subprocess.run([*words, named], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    check(done.returncode == 0, f"{label}: installed in {seconds:.0f} s {done.stderr[-400:] if done.returncode else ''}")
    if done.returncode:
        return
    found = sizes(next((place / "lib").iterdir()) / "site-packages")
    beside = sum(size for name, size in found.items() if name not in (*OF_JAX, "pip", "setuptools"))
    check(
        bool(extra) or beside <= MOST_MB_BESIDE,
        f"{label}: {sum(found.values()):.0f} MB, {beside:.0f} beside JAX{'' if extra else f', at most {MOST_MB_BESIDE}'}",
    )
    work = folder / f"work-{version}-{extra}"
    work.mkdir()
    lists = [] if extra else ["--version", "models", "presets", "targets"]
    for arguments in (*lists, f"sample dw4 -n {64 if extra else 1000} -o samples.h5"):
        seconds = used(label, place, work, f"boltzflow {arguments}")
        if arguments.startswith("sample") and not extra:
            check(seconds < MOST_SECONDS, f"{label}: 1 000 samples within {MOST_SECONDS:.0f} s of the prompt, nothing compiled before")
    for name, arguments in USES.items():
        if extra in (name, "all"):
            used(label, place, work, arguments)
        elif not extra and name in WITHOUT:
            (work / "run").mkdir(exist_ok=True)
            (work / "run" / "config.yaml").write_text("target: dw4\n")
            used(label, place, work, f"boltzflow {WITHOUT[name]}", code=2, said=f"boltzflow[{name}]")
    shutil.rmtree(place)


def used(label: str, place: Path, work: Path, arguments: str, *, code: int = 0, said: str = "") -> float:
    """Runs a command of an environment, which must end with a code and say something; the seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BOLTZFLOW"))}
    environment |= {"HOME": str(work), "BOLTZFLOW_CACHE": str(work / "cache"), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    program, *words = shlex.split(arguments)
    began = time.perf_counter()
    done = subprocess.run([place / "bin" / program, *words], cwd=work, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    told = " ".join(done.stderr.strip().splitlines()[-1:])[-300:] if done.returncode != code else ""
    holds = done.returncode == code and said in done.stderr
    check(holds, f"{label}: {arguments[:100]}, {seconds:.1f} s{f', says {said}' if said else ''} {told}".rstrip())
    return seconds


def main() -> int:
    """Checks all of it; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("build", "all"), default="all")
    parser.add_argument("--python", nargs="+", default=list(PYTHONS), help="versions")
    parser.add_argument("--extras", nargs="*", default=list(EXTRAS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = archives(folder, versions())
        if arguments.only == "all":
            for python in arguments.python:
                for extra in ("", *arguments.extras):
                    tried(wheel, python, extra, folder)
    print(f"{len(faults)} faults" if faults else "all is well")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
