"""Wrong inputs of many kinds: each gets one sentence, exit code 2 and no traceback, and nothing is written.

Words of the command line and calls from Python; what is wrong is a name, a path, a number, an option that does not apply, or the content of
a file. The folder that the commands run in is compared byte by byte before and after.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import cli
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import BoltzflowError
from boltzflow.sampling.generate import generate

NMA = """\
HETATM    1  CH3 ACE A   1      -1.800   0.635   0.005  1.00  0.00           C
HETATM    2  H1  ACE A   1      -2.180   1.654   0.055  1.00  0.00           H
HETATM    3  H2  ACE A   1      -2.133   0.166  -0.919  1.00  0.00           H
HETATM    4  H3  ACE A   1      -2.168   0.064   0.855  1.00  0.00           H
HETATM    5  C   ACE A   1      -0.290   0.657   0.036  1.00  0.00           C
HETATM    6  O   ACE A   1       0.312   1.728   0.111  1.00  0.00           O
HETATM    7  N   NME A   2       0.323  -0.526  -0.022  1.00  0.00           N
HETATM    8  H   NME A   2      -0.265  -1.347  -0.081  1.00  0.00           H
HETATM    9  C   NME A   2       1.772  -0.720  -0.012  1.00  0.00           C
HETATM   10  H1  NME A   2       2.006  -1.784   0.061  1.00  0.00           H
HETATM   11  H2  NME A   2       2.215  -0.203   0.841  1.00  0.00           H
HETATM   12  H3  NME A   2       2.208  -0.325  -0.930  1.00  0.00           H
END
"""
LONG = 60 * "name-"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are right and files that are wrong in one way each."""
    box = tmp_path_factory.mktemp("box")
    rng = np.random.default_rng(0)
    dw4 = bf.targets.get("dw4")
    frames = (2.2 * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1.0]]) + 0.35 * rng.normal(size=(200, 4, 2))).astype(np.float32)
    frames -= frames.mean(axis=1, keepdims=True)
    Dataset(frames, dw4.fingerprint, dw4.units, {"seed": 0}).save(box / "data.h5")
    Dataset(rng.normal(size=(20, 13, 3)).astype(np.float32), bf.targets.get("lj13").fingerprint, "reduced").save(box / "lj13.h5")
    meta = {"target": "double_well", "fingerprint": dw4.fingerprint, "units": "reduced", "model": "dw4", "seed": 5}
    ones, solved = np.ones(200), np.zeros(200, int)
    bf.Samples(frames, -ones, ones, solved, solved, ones, meta).save(box / "samples.h5")
    whole = (box / "samples.h5").read_bytes()
    (box / "cut.h5").write_bytes(whole[: len(whole) // 2])
    whole = (box / "data.h5").read_bytes()
    (box / "cut-data.h5").write_bytes(whole[: len(whole) // 3])
    (box / "garbage.h5").write_bytes(b"no HDF5 at all")
    (box / "empty.h5").touch()
    np.save(box / "nan.npy", np.where(np.arange(200)[:, None, None] == 7, np.nan, frames))
    np.save(box / "five.npy", rng.normal(size=(10, 5, 2)))
    np.save(box / "none.npy", np.zeros((0, 4, 2)))
    np.save(box / "complex.npy", frames + 0j)
    np.save(box / "words.npy", np.full((10, 4, 2), "x"))
    np.save(box / "scaled.npy", 1.5 * frames)
    (box / "text.npy").write_text("1 2 3")
    np.savez(box / "two.npz", a=frames, b=frames)
    (box / "plain").write_text("a file, not a folder")
    (box / "there.xyz").write_text("precious")
    (box / "folder.h5").mkdir()
    (box / "foreign").mkdir()
    (box / "foreign" / "thesis.tex").write_text("precious")
    (box / "bad.yaml").write_text("target: [dw4\n")
    (box / "list.yaml").write_text("- target\n- dw4\n")
    (box / "unknown.yaml").write_text("base: dw4\nflow: {ecnf: {network: {two-interaction: {hiden: 3}}}}\n")
    (box / "kind.yaml").write_text("base: dw4\nstages: [{steps: many}]\n")
    (box / "no-text.yaml").write_bytes(b"\xff\xfe\x00target")
    (box / "no-target.yaml").write_text("base: dw4\ntarget: dw5\n")
    (box / "nma.pdb").write_text(NMA)
    (box / "no-atoms.pdb").write_text("REMARK nothing\nEND\n")
    (box / "no-hydrogens.pdb").write_text("".join(line + "\n" for line in NMA.splitlines() if not line.endswith("H")))
    (box / "letters.pdb").write_text("this is no PDB file\n")
    for name in ("run", "broken-run", "damaged"):
        (box / name).mkdir()
        config_io.save_config(config_io.load_preset("dw4"), box / name / "config.yaml")
    (box / "broken-run" / "config.yaml").write_text("target: dw4\nflow: 7\n")
    (box / "damaged" / "model.safetensors").write_bytes(b"\x10\x00\x00\x00")
    return box


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The verbs set JAX up for their process, which here is that of the other tests."""
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def content(folder: Path) -> dict[str, str]:
    """Name and hash of everything in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


AMBER = ("--force-field", "amber14-all.xml", "--temperature")

COMMANDS: list[tuple[str, list[str], str]] = [
    # names and paths
    ("empty model", ["sample", ""], "RUN|MODEL is empty"),
    ("blank model", ["sample", "  "], "RUN|MODEL is empty"),
    ("empty output", ["sample", "dw4", "-o", ""], "the name of a file is empty"),
    ("output beyond 255 bytes", ["sample", "dw4", "-o", f"{LONG}.h5"], "is too long (303 bytes"),
    ("output too long for what is being written", ["sample", "dw4", "-o", f"{LONG[:245]}.h5"], "is too long (248 bytes, at most 230)"),
    ("letters of several bytes", ["sample", "dw4", "-o", f"{100 * 'ü界'}.h5"], "is too long (503 bytes"),
    ("model beyond 255 bytes", ["evaluate", LONG], "is too long (300 bytes"),
    ("path beyond all bounds", ["sample", "dw4", "-o", f"{3000 * 'ab/'}s.h5"], "too long"),
    ("file as a folder", ["sample", "dw4", "-o", "plain/s.h5"], "plain is a file, not a folder"),
    ("place that cannot be written", ["sample", "dw4", "-o", "/proc/boltzflow/s.h5"], "cannot write /proc/boltzflow/s.h5"),
    ("wrong ending", ["sample", "dw4", "-o", "s.txt"], "must end in .h5 or .hdf5"),
    ("no ending", ["reference", "dw4", "-o", "data"], "must end in .h5 or .hdf5"),
    ("folder as output", ["sample", "dw4", "-o", "folder.h5"], "folder.h5 is a folder"),
    ("output that exists", ["sample", "dw4", "-o", "samples.h5"], "add --resume"),
    ("data that exist", ["reference", "dw4", "-o", "data.h5"], "data.h5 exists already"),
    ("resumed garbage", ["sample", "dw4", "-o", "garbage.h5", "--resume"], "holds no boltzflow samples"),
    ("resumed with another seed", ["sample", "dw4", "-o", "samples.h5", "--resume", "--seed", "6"], "holds samples with seed 5, not 6"),
    ("resumed data set", ["sample", "dw4", "-o", "data.h5", "--resume"], "holds no boltzflow samples"),
    ("folder without a model", ["sample", "foreign", "-o", "new.h5"], "holds no trained model"),
    ("damaged model", ["sample", "damaged", "-o", "new.h5"], "damaged"),
    ("data as a model", ["sample", "data.h5", "-o", "new.h5"], "no safetensors file"),
    ("unknown model", ["evaluate", "dw5"], "did you mean 'dw4'"),
    # numbers
    ("n that no disk holds", ["sample", "dw4", "-n", "99999999999999999"], "-n must be at most 2147483647"),
    ("n beyond the memory", ["sample", "lj55", "-n", "2000000000", "-o", "new.h5"], "GB of memory"),
    ("frames beyond all bounds", ["reference", "dw4", "-n", "99999999999999999"], "-n must be at most"),
    ("samples of the demo", ["demo", "-n", "99999999999999999"], "-n must be at most"),
    ("chunk beyond all bounds", ["sample", "dw4", "--chunk", "99999999999999999"], "--chunk must be at most"),
    ("negative n", ["evaluate", "dw4", "-n", "-5"], "-n must be at least 1"),
    ("n with a point", ["sample", "dw4", "-n", "10.5"], "must be a whole number"),
    ("n of letters", ["export", "samples.h5", "s.xyz", "-n", "all"], "must be a whole number"),
    ("empty number", ["sample", "dw4", "-n", ""], "must be a whole number"),
    ("negative seed", ["demo", "--seed", "-1"], "--seed must be a whole number from 0"),
    ("interval of nothing", ["reference", "nma.pdb", "--method", "molecular-dynamics", "--interval", "0"], "--interval must be a positive"),
    ("interval that is no number", ["reference", "nma.pdb", "--method", "molecular-dynamics", "--interval", "nan"], "--interval must be a"),
    ("unknown precision", ["evaluate", "dw4", "--precision", "half"], "must be one of double, single"),
    # files of frames
    ("empty name of data", ["evaluate", "dw4", "--data", ""], "the name after --data is empty"),
    ("data that are not there", ["evaluate", "dw4", "--data", "no.npy"], "there is no data file no.npy"),
    ("folder as data", ["evaluate", "dw4", "--data", "foreign"], "there is no data file foreign"),
    ("empty name of dynamics", ["evaluate", "dw4", "--dynamics", ""], "the name after --dynamics is empty"),
    ("dynamics that are not there", ["evaluate", "dw4", "--dynamics", "no.h5"], "there is no data file no.h5"),
    ("dynamics of particles", ["evaluate", "dw4", "--dynamics", "data.h5", "--allow-virial-mismatch"], "double_well has no torsions"),
    ("dynamics of another target", ["evaluate", "dw4", "--dynamics", "lj13.h5"], "holds frames of lennard_jones"),
    ("TICA model that is none", ["evaluate", "dw4", "--dynamics", "list.json"], "the TICA model list.json cannot be read"),
    ("NaN", ["evaluate", "dw4", "--data", "nan.npy"], "1 frames with NaN or infinite positions out of 200, the first at index 7"),
    ("wrong shape", ["evaluate", "dw4", "--data", "five.npy"], "shape (10, 5, 2)"),
    ("no frames", ["evaluate", "dw4", "--data", "none.npy"], "holds no frames"),
    ("complex numbers", ["evaluate", "dw4", "--data", "complex.npy"], "type complex64"),
    ("words for numbers", ["evaluate", "dw4", "--data", "words.npy"], "needs frames of shape"),
    ("text under the name of NumPy", ["evaluate", "dw4", "--data", "text.npy"], "not a readable NumPy file"),
    ("two arrays", ["evaluate", "dw4", "--data", "two.npz"], "holds the arrays a, b"),
    ("garbage as data", ["evaluate", "dw4", "--data", "garbage.h5"], "not a readable HDF5"),
    ("data cut off", ["evaluate", "dw4", "--data", "cut-data.h5"], "truncated"),
    ("trajectory as data", ["evaluate", "dw4", "--data", "there.xyz"], "is a trajectory of atoms, but target 'double_well' has"),
    ("samples as data", ["evaluate", "dw4", "--data", "samples.h5"], "not a boltzflow data set"),
    ("data of another target", ["evaluate", "dw4", "--data", "lj13.h5"], "holds frames of lennard_jones"),
    ("data in another unit", ["evaluate", "dw4", "--data", "scaled.npy"], "does not belong to target 'double_well'"),
    # configurations
    ("empty preset", ["train", ""], "PRESET is empty"),
    ("empty name of a preset", ["presets", ""], "there is no preset ''"),
    ("empty run folder", ["train", "dw4", "-o", ""], "the name of the folder is empty"),
    ("file as a run folder", ["train", "dw4", "-o", "plain"], "plain is a file"),
    ("run folder below a file", ["demo", "-o", "plain/run"], "plain is a file"),
    ("folder of something else", ["train", "dw4", "-o", "foreign"], "is not empty and holds no run"),
    ("broken YAML", ["train", "bad.yaml", "-o", "new"], "bad.yaml"),
    ("list for options", ["train", "list.yaml", "-o", "new"], "list.yaml"),
    ("unknown option in a file", ["train", "unknown.yaml", "-o", "new"], "did you mean 'flow.network.hidden'"),
    ("text for a number", ["train", "kind.yaml", "-o", "new"], "stages.0.steps must be a whole number, got the text 'many'"),
    ("file that is no text", ["train", "no-text.yaml", "-o", "new"], "it is no text"),
    ("unknown target in a file", ["train", "no-target.yaml", "-o", "new"], "there is no target 'dw5'"),
    ("negative steps", ["train", "dw4", "-o", "new", "--set", "stages.0.steps=-1"], "stages.0.steps must be"),
    ("batches of nothing", ["train", "dw4", "-o", "new", "--set", "stages.0.batch_size=0"], "stages.0.batch_size must be"),
    ("unknown value", ["train", "dw4", "-o", "new", "--set", "flow.network=egn"], "Did you mean 'egnn'"),
    ("start that is not there", ["train", "dw4", "-o", "new", "--set", "run.start_from=dw5"], "there is no model or run folder 'dw5'"),
    ("option of a molecule for a preset", ["train", "dw4", "-o", "new", "--temperature", "300"], "is for molecules from files"),
    # molecules
    ("molecule without force field", ["reference", "nma.pdb", "-o", "new.h5"], "name the force field"),
    ("molecule without temperature", ["reference", "nma.pdb", *AMBER[:2], "-o", "new.h5"], "give the temperature"),
    ("negative temperature", ["reference", "nma.pdb", *AMBER, "-5", "-o", "new.h5"], "temperature"),
    ("molecule that is not there", ["reference", "no.pdb", *AMBER, "300", "-o", "new.h5"], "no.pdb"),
    ("molecule without atoms", ["reference", "no-atoms.pdb", *AMBER, "300", "-o", "new.h5"], "no-atoms.pdb"),
    ("text as a molecule", ["reference", "letters.pdb", *AMBER, "300", "-o", "new.h5"], "letters.pdb"),
    ("molecule without hydrogens", ["reference", "no-hydrogens.pdb", *AMBER, "300", "-o", "new.h5"], "hydrogen"),
    ("unknown force field", ["reference", "nma.pdb", "--force-field", "amber15.xml", "--temperature", "9", "-o", "new.h5"], "amber15.xml"),
    ("dynamics of no molecule", ["reference", "dw4", "--method", "molecular-dynamics", "-o", "new.h5"], "molecule"),
    ("interval for another sampler", ["reference", "dw4", "--interval", "2"], "--interval is for --method molecular-dynamics"),
    # averages
    ("average without copies", ["average", "dw4", "no.h5"], "only an augmented flow has copies"),
    ("average of nothing", ["average", "dw4-eacf", "no.h5"], "there are no samples at no.h5"),
    # densities
    ("frames that are not there", ["log-prob", "dw4", "no.h5"], "there is no data file no.h5"),
    ("frames of another target", ["log-prob", "dw4", "lj13.h5"], "lj13.h5 holds frames of lennard_jones"),
    ("draws without copies", ["log-prob", "dw4", "data.h5", "--draws", "5", "--allow-virial-mismatch"], "this flow has none"),
    ("no draws", ["log-prob", "dw4-eacf", "data.h5", "--draws", "0"], "--draws must be at least 1, got 0"),
    ("solver of what has none", ["log-prob", "dw4-eacf", "data.h5", "--checked", "5", "--allow-virial-mismatch"], "no error by a solver"),
    ("columns onto what is there", ["log-prob", "dw4", "data.h5", "-o", "samples.h5"], "samples.h5 exists already; choose another"),
    ("columns of another kind", ["log-prob", "dw4", "data.h5", "-o", "columns.txt"], "must end in .h5 or .hdf5 or .npz or .csv"),
    ("atoms of what is no trajectory", ["log-prob", "dw4", "data.h5", "--selection", "protein"], "is no trajectory"),
    # runs
    ("model for a run", ["report", "dw4"], "dw4 is a pretrained model, which has no run folder"),
    ("model for a run to resume", ["resume", "dw4"], "dw4 is a pretrained model, which has no run folder"),
    ("file for a run", ["report", "samples.h5"], "samples.h5 is a file; name the folder"),
    ("empty run", ["report", ""], "RUN is empty"),
    ("page of another kind", ["report", "run", "-o", "page.pdf"], "must end in .html or .htm"),
    ("page below a file", ["report", "run", "-o", "plain/page.html"], "plain is a file"),
    ("longer run", ["resume", "run", "--set", "training.steps=5"], "a run is a list of stages now"),
    ("broken run", ["resume", "broken-run"], "flow"),
    # exports
    ("unknown format", ["export", "samples.h5", "s.foo"], "known are .xyz"),
    ("format that needs atoms", ["export", "samples.h5", "s.pdb"], "needs a topology"),
    ("samples that are not there", ["export", "no.h5", "s.xyz"], "there are no samples at no.h5"),
    ("samples cut off", ["export", "cut.h5", "s.xyz"], "damaged"),
    ("empty file", ["export", "empty.h5", "s.xyz"], "damaged"),
    ("onto itself", ["export", "samples.h5", "samples.h5"], "is the file that is exported"),
    ("onto what is there", ["export", "samples.h5", "there.xyz"], "add --overwrite"),
    ("data drawn by weights", ["export", "data.h5", "s.xyz", "--resample"], "count alike already"),
    ("seed of nothing", ["export", "samples.h5", "s.xyz", "--seed", "3"], "--seed is for --resample"),
    ("topology that is not there", ["export", "samples.h5", "s.xyz", "--topology", "no.pdb"], "there is no topology file no.pdb"),
    ("topology of another molecule", ["export", "samples.h5", "s.pdb", "--topology", "nma.pdb"], "12 atoms but the samples have 4"),
    # words
    ("too many words", ["models", "dw4"], "too many arguments: dw4"),
    ("option of another verb", ["sample", "dw4", "--data", "data.h5"], "unknown option '--data'"),
    ("verb with a typing error", ["exprot", "a", "b"], "did you mean 'export'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), [entry[1:] for entry in COMMANDS], ids=[entry[0].replace(" ", "-") for entry in COMMANDS])
def test_command(words: list[str], said: str, box: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if any(word.endswith(".pdb") for word in words):
        pytest.importorskip("openmm")
        pytest.importorskip("mdtraj")
    monkeypatch.chdir(box)
    before = content(box)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("boltzflow: error: ")]
    assert len(lines) == 1
    assert err.splitlines()[-1] == lines[0]
    sentence = lines[0].removeprefix("boltzflow: error: ")
    assert said in sentence
    # One sentence, that says what is wrong in a length that one reads.
    assert sentence.rstrip()[-1] in ".?"
    assert len(sentence) < 600
    assert "Traceback" not in err
    assert content(box) == before


def python_calls() -> list[tuple[str, Callable[[], object], str]]:
    target = bf.targets.get("dw4")
    return [
        ("empty samples", lambda: bf.Samples.load(""), "is empty"),
        ("empty model", lambda: bf.load_model(""), "the name of the model is empty"),
        ("null character", lambda: bf.load_model("dw4\0"), "null character"),
        ("empty data", lambda: bf.datasets.load("", target), "is empty"),
        ("empty run folder", lambda: bf.train(config_io.load_preset("dw4"), ""), "the name of the run folder is empty"),
        ("long name", lambda: bf.Samples.load(f"{LONG}.h5"), "too long"),
        ("save onto samples", lambda: bf.Samples.load("samples.h5").save("samples.h5"), "pass overwrite=True"),
        ("export onto a file", lambda: bf.Samples.load("samples.h5").export("there.xyz"), "pass overwrite=True"),
        ("export of nothing", lambda: bf.Samples.load("samples.h5").take(slice(0, 0)).export("s.xyz"), "no frame to write"),
        ("samples without end", lambda: generate(bf.load_model("dw4").flow, target, 10**17, seed=0), "32-bit"),
        ("no samples", lambda: generate(bf.load_model("dw4").flow, target, 0, seed=0), "must be positive"),
        ("report of a file", lambda: bf.report.write("plain", "page.html"), "there is no run folder plain"),
        ("report below a file", lambda: bf.report.write("run", "plain/page.html"), "cannot write plain/page.html"),
        ("data below a file", lambda: bf.datasets.read("data.h5").save("plain/data.h5"), "plain/data.h5"),
    ]


CALLS = python_calls()


@pytest.mark.parametrize(("call", "said"), [entry[1:] for entry in CALLS], ids=[entry[0].replace(" ", "-") for entry in CALLS])
def test_call(call: Callable[[], object], said: str, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(box)
    before = content(box)
    with pytest.raises(BoltzflowError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(box) == before


@pytest.mark.parametrize(
    ("words", "platform", "said"),
    [
        (["sample", "dw4", "-n", "5", "-o", "new.h5"], "cuda", "JAX_PLATFORMS=cuda"),
        (["report", "run", "-o", "new.html"], "abacus", "JAX_PLATFORMS=abacus"),
    ],
)
def test_device_that_is_not_there(words: list[str], platform: str, said: str, box: Path) -> None:
    before = content(box)
    environment = {**os.environ, "JAX_PLATFORMS": platform}
    done = subprocess.run(
        [sys.executable, "-m", "boltzflow", *words], capture_output=True, text=True, check=False, cwd=box, env=environment
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert content(box) == before


def test_there_are_enough() -> None:
    assert len(COMMANDS) + len(CALLS) >= 60
    assert len({tuple(words) for _, words, _ in COMMANDS}) == len(COMMANDS)
