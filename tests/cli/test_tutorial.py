"""docs/molecule.md, run as written but for the numbers of frames, steps and samples."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from boltzflow import runtime
from boltzflow.chemistry.peptides import build_peptide
from boltzflow.sampling import Samples

mdtraj = pytest.importorskip("mdtraj", reason="mdtraj (extra `molecules`) is not installed")
pytest.importorskip("openmm", reason="OpenMM (extra `molecules`) is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "molecule.md").read_text(encoding="utf-8")
# Enough to come through, too few to mean anything.
FRAMES, SAMPLES = 64, 20
TRAINING = {"steps": 2, "batch_size": 8, "microbatch": 8}
# What reference data cost besides frames, which has no option: a warm-up, and a pilot run of long trajectories.
SAMPLER = (
    "from boltzflow.reference import sampler\n"
    "sampler._WARM_UP_SWEEPS, sampler._PILOT_SWEEPS, sampler._LEAPFROG_STEPS_OF_MOLECULES = 64, 16, 8\n"
)


def blocks(language: str) -> list[str]:
    """The code of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def shortened(code: str, *settings: str) -> str:
    """A block whose lines of settings are exchanged for short ones."""
    for line in settings:
        name = re.escape(line.partition("=")[0])
        code, found = re.subn(rf"^{name}=.*$", lambda _, line=line: line, code, flags=re.M)
        assert found == 1, f"the block sets {name} {found} times"
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial is followed, with the molecule's file."""
    place = tmp_path_factory.mktemp("tutorial")
    (place / "nma.pdb").write_text(blocks("pdb")[0])
    return place


def follow(words: list[str], folder: Path) -> str:
    """Runs a program in the folder of the tutorial and returns what it printed."""
    # Both ways compile much the same programs; the script, which sets up no cache, is given that of the command line.
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(runtime.compile_cache()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_python(folder: Path) -> None:
    code = shortened(blocks("python")[0], f"FRAMES, SAMPLES = {FRAMES}, {SAMPLES}", f"TRAINING = {TRAINING}")
    assert len([line for line in code.splitlines() if line]) <= 20
    said = follow([sys.executable, "-c", SAMPLER + code], folder)
    assert "64 frames" in said
    assert re.search(r"\(n = 20\)$", said, flags=re.M)
    shown = mdtraj.load(str(folder / "runs/nma-python/nma.pdb"))
    assert shown.n_frames == 100
    assert [atom.name for atom in shown.topology.atoms][:3] == ["CH3", "H1", "H2"]
    assert (folder / "runs/nma-python/report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_from_the_command_line(folder: Path) -> None:
    training = " ".join([*(f"stages.0.{name}={value}" for name, value in TRAINING.items()), "run.devices=1", "data.validation=8"])
    code = shortened(blocks("sh")[0], f"FRAMES={FRAMES} SAMPLES={SAMPLES}", f'TRAINING="{training}"')
    (folder / "verb.py").write_text(SAMPLER + "import sys\nfrom boltzflow.cli import main\nsys.exit(main())\n")
    follow(["bash", "-ec", f'boltzflow() {{ "{sys.executable}" verb.py "$@"; }}\n' + code], folder)
    assert mdtraj.load(str(folder / "frames.pdb")).n_frames == 50
    assert mdtraj.load(str(folder / "nma.xtc"), top=str(folder / "frames.pdb")).n_frames == 100
    assert Samples.load(folder / "runs/nma/samples.h5").n == SAMPLES
    assert json.loads((folder / "runs/nma/evaluation.json").read_text())["ess_reverse"]["n"] == SAMPLES
    assert (folder / "runs/nma/report.html").is_file()


def test_free_energies_of_torsions(capsys: pytest.CaptureFixture[str]) -> None:
    topology, structure = build_peptide("A")
    rng = np.random.default_rng(0)
    positions = structure + 0.02 * rng.normal(size=(200, *structure.shape))
    # One solve has failed; mirror images give phi both signs.
    positions[0] = np.nan
    positions[100:] *= -1.0
    zero = np.zeros(200)
    samples = Samples(positions, zero, zero, (np.arange(200) == 0).astype(int), np.zeros(200, int), zero)
    found: dict = {"target": SimpleNamespace(topology=topology), "samples": samples}
    code = next(block for block in blocks("python") if "free_energy_difference" in block)
    exec(code, found)
    assert "np.array([[4, 6, 8, 14]])" in code
    assert found["residue"].phi == (4, 6, 8, 14)
    assert found["difference"].low < 0.0 < found["difference"].high
    assert len(capsys.readouterr().out.splitlines()) == 60
