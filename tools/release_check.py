"""Builds what is released and tries it where nothing else is: `make release-check`.

    python tools/release_check.py                      # every Python from 3.11 to 3.13 that is there, core installation
    python tools/release_check.py --extras molecules   # and once more with an extra
    python tools/release_check.py --only build         # without installing

Checked are the version (one place, as CITATION.cff and CHANGELOG.md have it), what wheel and source archive hold, that building twice gives
the same bytes, the metadata (twine, where it is installed), and in a fresh environment for each Python: size, commands, shipped models, and
the time from the prompt to 1 000 samples.
"""

import argparse
import hashlib
import os
import re
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
MOST_MB = 400
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
            check(done.returncode == 0, f"twine check: {' '.join(done.stdout.split())[-200:]}")
            return
    print("--    twine is not installed: metadata and README were not rendered")


def interpreter(version: str) -> str | None:
    """A Python of that version, of the PATH or among those of pyenv; None if there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in (f"python{version}", *sorted(map(str, root.glob(f"{version}.*/bin/python")))):
        # A name on the PATH may be a shim of something that is not there.
        if shutil.which(name) and subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0:
            return name
    return None


def tried(wheel: Path, version: str, extra: str, folder: Path) -> None:
    """Installs the wheel where nothing else is, and runs what a user would run first."""
    label = f"Python {version}{f' [{extra}]' if extra else ''}"
    python = interpreter(version)
    if python is None:
        print(f"--    {label}: there is none here")
        return
    place = folder / f"{version}-{extra}"
    subprocess.run([python, "-m", "venv", place], check=True)
    inside = place / "bin" / "python"
    named = f"{wheel}[{extra}]" if extra else str(wheel)
    words = ["uv", "pip", "install", "--python", inside] if shutil.which("uv") else [inside, "-m", "pip", "install", "--quiet"]
    began = time.perf_counter()
    done = subprocess.run([*words, named], capture_output=True, text=True, check=False)
    check(
        done.returncode == 0, f"{label}: installed in {time.perf_counter() - began:.0f} s {done.stderr[-400:] if done.returncode else ''}"
    )
    if done.returncode:
        return
    packages = next((place / "lib").iterdir()) / "site-packages"
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file() and "__pycache__" not in file.parts) / 1e6
    check(bool(extra) or size <= MOST_MB, f"{label}: {size:.0f} MB installed{'' if extra else f', at most {MOST_MB}'}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BOLTZFLOW"))}
    environment |= {"HOME": str(folder), "BOLTZFLOW_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    work = folder / f"work-{version}-{extra}"
    work.mkdir()
    for arguments in (("--version",), ("models",), ("presets",), ("targets",), ("sample", "dw4", "-n", "1000", "-o", "samples.h5")):
        began = time.perf_counter()
        done = subprocess.run(
            [place / "bin" / "boltzflow", *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        told = done.stderr.strip().splitlines()[-1:] if done.returncode else ""
        check(done.returncode == 0, f"{label}: boltzflow {' '.join(arguments)}, {seconds:.1f} s {told}")
        if arguments[0] == "sample":
            check(seconds < MOST_SECONDS, f"{label}: 1 000 samples within {MOST_SECONDS:.0f} s of the prompt, nothing compiled before")


def main() -> int:
    """Checks all of it; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("build", "all"), default="all")
    parser.add_argument("--python", nargs="+", default=list(PYTHONS), help="versions")
    parser.add_argument("--extras", nargs="*", default=[])
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
