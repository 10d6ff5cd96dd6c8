"""The wheel, as users get it: all files of the package are in it, and its command runs where there is no source tree. Slow."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("boltzflow-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel; the dependencies are those of this environment, but not what it holds of boltzflow."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # What a wheel's installation is but for the scripts; a folder in a .pth file comes after the environment's own, and .pth files
    # within it, such as that of an editable installation, are not read.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    (place / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n")
    return python


def run(python: Path, *words: str, folder: Path) -> str:
    """What a command prints, in an empty folder and without this process's paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_holds_every_file_of_the_package(wheel: Path) -> None:
    words = ["git", "ls-files", "src/boltzflow"]
    try:
        listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git repository")
    files = {name.removeprefix("src/") for name in listed if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert files
    assert sorted(files - held) == []
    # Nor anything else but what describes the package.
    extra = {name for name in held - files if ".dist-info/" not in name}
    untracked = {name for name in extra if (ROOT / "src" / name).exists()}
    assert sorted(extra - untracked) == []


def test_is_the_package_that_runs(installed: Path, tmp_path: Path) -> None:
    found = run(installed, "-c", "import boltzflow; print(boltzflow.__file__)", folder=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parents[1].resolve())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version",), "0."),
        (("presets",), "lj13"),
        (("models",), "alanine-dipeptide"),
        (("targets",), "dw4"),
        (("sample", "dw4", "-n", "16", "--out", "samples.h5"), ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_its_command_runs(installed: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    assert said in run(installed, "-m", "boltzflow", *words, folder=tmp_path)
    if words[0] == "sample":
        assert (tmp_path / "samples.h5").stat().st_size > 0


def test_its_presets_and_models_are_read(installed: Path, tmp_path: Path) -> None:
    code = """
from importlib import resources
import boltzflow as bf
assert bf.load_preset("dw4").target == "dw4"
for folder in ("presets", "pretrained"):
    assert any(resources.files("boltzflow").joinpath(folder).iterdir()), folder
"""
    run(installed, "-c", code, folder=tmp_path)
