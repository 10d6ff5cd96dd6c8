"""The report of a faked run: complete, incomplete and broken, and opened in a browser."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boltzflow import cli, datasets, report
from boltzflow.errors import RunError
from boltzflow.report import contents
from boltzflow.report.page import duration
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter

SYSTEMS = ("dw4", "lj13")


def configurations(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Something that looks like the target: a jittered square or icosahedron, centred and turned."""
    if name == "dw4":
        base = 2.2 * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
        jitter = 0.35
    else:
        golden = (1 + 5**0.5) / 2
        vertices = [(0, a, b * golden) for a in (1, -1) for b in (1, -1)]
        ring = np.array([np.roll(vertex, k) for vertex in vertices for k in range(3)]) / (1 + golden**2) ** 0.5
        base = np.concatenate([np.zeros((1, 3)), 1.02 * ring])
        jitter = 0.045
    turn = np.linalg.qr(rng.normal(size=(n, base.shape[1], base.shape[1])))[0]
    positions = base @ turn + jitter * rng.normal(size=(n, *base.shape))
    return (positions - positions.mean(axis=1, keepdims=True)).astype(np.float32)


def fake_run(folder: Path, name: str, n: int = 4000) -> Path:
    """A run folder with every file, as training, sampling and evaluation leave it."""
    from boltzflow import targets
    from boltzflow.datasets import Dataset

    rng = np.random.default_rng(0)
    target = targets.get(name)
    folder.mkdir(parents=True)
    config = f"target: {name}\ndescription: 'a <b>faked</b> run'\ntraining:\n  steps: 8000\n  batch_size: 256\n  learning_rate: 0.0005\n"
    (folder / "config.yaml").write_text(config)
    (folder / "versions.json").write_text(json.dumps({"boltzflow": "0.1.0", "jax": "0.10.0", "python": "3.11.7"}))
    (folder / "model.json").write_text(json.dumps({"target": name, "parameters": 24_321, "command": "boltzflow train <x>", "nested": {}}))
    lines = []
    for step in range(100, 8001, 100):
        loss = 4.0 + 12 * np.exp(-step / 300) + 0.08 * rng.normal()
        lines.append({"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": 5e-4, "skipped": 3, "seconds": step * 0.02})
        if step % 1000 == 0:
            ess, nll = 0.9 * (1 - np.exp(-step / 2500)), 8.1 + 2 * np.exp(-step / 2000)
            lines.append(
                {
                    "step": step,
                    "validation_nll": {"value": nll, "low": nll - 0.06, "high": nll + 0.06, "n": 1000},
                    "ess_reverse": {"value": ess, "low": ess - 0.03, "high": ess + 0.03, "n": 500},
                }
            )
    torn = '{"step": 8100, "lo'
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n" + torn)
    Dataset(configurations(name, 5000, rng), target.fingerprint, target.units, {"seed": 0, "seconds": 41.0, "r_hat": 1.003}).save(
        folder / "data.h5"
    )
    positions = configurations(name, n, rng) * np.float32(1.01)
    u = np.asarray(target.energies(positions)).astype(float)
    status = np.zeros(n, int)
    status[7] = 1
    u[8] = np.inf
    meta = {"target": name, "fingerprint": target.fingerprint, "model": str(folder), "seed": 0, "units": target.units, "seconds": 12.0}
    log_q = -u - 9.0 + 0.5 * rng.normal(size=n)
    log_q[8] = -3.0
    Samples(positions, log_q, u, status, np.full(n, 98), rng.normal(2.1, 0.1, n), meta).save(folder / "samples.h5")

    def estimate(value: float, width: float, n: int = 10_000) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width, "n": n}

    evaluation = {
        "target": name,
        "model": str(folder),
        "n": 10_000,
        "nll": estimate(8.214, 0.041),
        "nll_minus_entropy": estimate(0.023, 0.004),
        "ess_reverse": estimate(0.8871, 0.0052),
        "ess_forward": estimate(0.8812, 0.0075),
        "log_z": estimate(8.9987, 0.0046),
        "path_length": estimate(2.131, 0.007),
        "nfe": estimate(98.2, 0.4),
        "pareto_k": 0.21,
        "failed": 2,
        "seconds_per_1000": 1.234,
        "seconds_compile": 9.87,
        "versions": {"boltzflow": "0.1.0"},
        "seconds": {"reference": 41.0, "training": 193.0, "sampling": 12.3, "evaluation": 30.1},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


@pytest.fixture(scope="module", params=SYSTEMS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / request.param, request.param)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report.write(run, run / "report.html").read_text()


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


class TestPage:
    def test_every_section_is_there(self, page: str) -> None:
        assert headings(page) == [
            "Key figures",
            "Energies",
            "Pair distances",
            "Nearest neighbours",
            "Samples",
            "Weights",
            "Training",
            "How long it took",
            "Configuration",
            "Versions",
            "Model",
            "Reference data",
        ]

    def test_figures_with_interval_and_n(self, page: str) -> None:
        row = re.search(r"<tr><td>Reverse ESS.*?</tr>", page)
        assert row is not None
        text = html.unescape(re.sub("<[^>]+>", " ", row[0]))
        assert "88.7\u202f%" in text
        assert "[88.2, 89.2]" in text
        assert "10\u202f000" in text
        assert "3 min 13 s" in page

    def test_self_contained(self, page: str) -> None:
        """Nothing that a browser would fetch; plotly's own source holds addresses, but the policy allows none."""
        without_scripts = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
        assert not re.findall(r"""(?:src|href)=["'](?!data:)""", without_scripts)
        assert "@import" not in without_scripts
        assert "default-src 'none'" in page

    def test_text_from_files_is_escaped(self, page: str) -> None:
        assert "<b>faked</b>" not in page
        assert "&lt;b&gt;faked&lt;/b&gt;" in page
        assert "boltzflow train &lt;x&gt;" in page

    def test_planar_systems_need_no_plotly(self, run: Path, page: str) -> None:
        assert (len(page) < 1_000_000) == (run.name == "dw4")

    def test_same_run_same_page(self, run: Path, page: str, tmp_path: Path) -> None:
        assert report.write(run, tmp_path / "again.html").read_text() == page


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small runs that tests copy and spoil."""
    folder = tmp_path_factory.mktemp("templates")
    for name in SYSTEMS:
        fake_run(folder / name, name, n=300)
    return folder


@pytest.fixture
def spoil(templates: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(templates / name, tmp_path / name))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but not laid out, which takes most of the time; `TestPage` renders them all."""
    monkeypatch.setattr("boltzflow.report.figures.svg", lambda _: "<svg/>")


class TestIncomplete:
    @pytest.mark.parametrize(
        ("missing", "sentence", "gone"),
        [
            ("samples.h5", "Nothing has been sampled yet", ["Samples", "Weights"]),
            ("evaluation.json", "has not been evaluated yet", []),
            ("data.h5", "reference data of the run are not at hand", ["Reference data"]),
            ("metrics.jsonl", "There is no training history", ["Training"]),
            ("config.yaml", "", ["Configuration"]),
            ("versions.json", "", []),
            ("model.json", "", ["Model"]),
        ],
    )
    def test_missing_file(
        self, spoil: Callable[[str], Path], unrendered: None, tmp_path: Path, missing: str, sentence: str, gone: list[str]
    ) -> None:
        folder = spoil("dw4")
        (folder / missing).unlink()
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert sentence in page
        assert "could not be drawn" not in page
        assert not set(gone) & set(headings(page))
        assert "Energies" in headings(page)

    @pytest.mark.parametrize(
        "broken", ["samples.h5", "evaluation.json", "data.h5", "metrics.jsonl", "config.yaml", "versions.json", "model.json"]
    )
    def test_broken_file(self, spoil: Callable[[str], Path], unrendered: None, tmp_path: Path, broken: str) -> None:
        folder = spoil("dw4")
        (folder / broken).write_bytes(b"\x00{[: <broken>")
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert "Energies" in headings(page)
        assert "could not be drawn" not in page

    @pytest.mark.parametrize("only", ["config.yaml", "metrics.jsonl", "samples.h5", "model.json"])
    def test_one_file_alone(self, spoil: Callable[[str], Path], unrendered: None, tmp_path: Path, only: str) -> None:
        folder = spoil("dw4")
        for path in folder.iterdir():
            if path.name != only:
                path.unlink()
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert "What is not here" in headings(page)
        assert "could not be drawn" not in page

    def test_all_samples_failed(self, spoil: Callable[[str], Path], tmp_path: Path) -> None:
        folder = spoil("dw4")
        (folder / "evaluation.json").unlink()
        samples = Samples.load(folder / "samples.h5")
        nothing = np.full(samples.n, np.nan)
        failed = Samples(
            np.full_like(samples.positions, np.nan), nothing, nothing, np.ones(samples.n, int), samples.nfe, nothing, samples.meta
        )
        failed.save(folder / "samples.h5", overwrite=True)
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert "300 of 300 samples have no weight" in page
        assert "could not be drawn" not in page

    def test_one_sample(self, spoil: Callable[[str], Path], tmp_path: Path) -> None:
        folder = spoil("lj13")
        Samples.load(folder / "samples.h5").take(slice(0, 1)).save(folder / "samples.h5", overwrite=True)
        (folder / "evaluation.json").unlink()
        assert "could not be drawn" not in report.write(folder, tmp_path / "r.html").read_text()

    def test_interrupted_sampling_is_shown(self, spoil: Callable[[str], Path], unrendered: None, tmp_path: Path) -> None:
        folder = spoil("dw4")
        samples = Samples.load(folder / "samples.h5")
        (folder / "samples.h5").unlink()
        SamplesWriter(folder / "samples.h5", samples.meta).append(samples)
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert "Sampling was interrupted; this page shows the 300 samples" in page
        assert "Weights" in headings(page)

    def test_unregistered_target(self, spoil: Callable[[str], Path], unrendered: None, tmp_path: Path) -> None:
        folder = spoil("lj13")
        for name in ("config.yaml", "model.json", "evaluation.json"):
            (folder / name).write_text((folder / name).read_text().replace("lj13", "my-molecule"))
        page = report.write(folder, tmp_path / "r.html").read_text()
        assert "my-molecule is not registered by name" in page
        assert "so energies of the reference data and exact values are missing" in page
        # Those that are stored are shown.
        data = datasets.read(folder / "data.h5")
        dataclasses.replace(data, energies=np.arange(data.n, dtype=float)).save(folder / "data.h5")
        found = contents.read(folder)
        assert any("made again here, so exact values are missing" in note for note in found.notes)
        np.testing.assert_array_equal(found.data_energies, np.arange(data.n))
        assert {"Energies", "Pair distances", "Samples"} <= set(headings(page))


def test_figures_of_different_samples_are_told_apart(spoil: Callable[[str], Path], unrendered: None, tmp_path: Path) -> None:
    folder = spoil("dw4")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    del evaluation["pareto_k"]
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    page = html.unescape(report.write(folder, tmp_path / "r.html").read_text())
    assert "of the evaluation, which drew 10\u202f000 samples of its own" in page
    assert "are of the 300 samples in samples.h5" in page
    tiles = re.findall(r'<div class="tile"><span>(.*?)</span>.*?<small>(.*?)</small>', page)
    assert [(name, text.endswith("evaluation")) for name, text in tiles if "ESS" in name] == [("Reverse ESS", True), ("Forward ESS", True)]
    assert [text.endswith("(samples.h5)") for name, text in tiles if "Pareto" in name] == [True]


@pytest.mark.parametrize("broken", ["data.h5", "evaluation.json", "samples.h5", "model.json"])
@pytest.mark.parametrize("content", [b"\x00{[: <broken>", b"[1, 2]", b""])
def test_damage_is_said_on_the_terminal_too(
    spoil: Callable[[str], Path], unrendered: None, capsys: pytest.CaptureFixture[str], broken: str, content: bytes
) -> None:
    folder = spoil("dw4")
    (folder / broken).write_bytes(content)
    assert cli.main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(folder / "report.html")
    assert broken in err
    assert "has not been evaluated yet" not in err


class TestBadInput:
    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="there is no run folder"):
            report.write(tmp_path / "none", tmp_path / "r.html")
        with pytest.raises(RunError, match="is no run folder: it has none of"):
            report.write(tmp_path, tmp_path / "r.html")

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "config.yaml").write_text("target: dw4\n")
        with pytest.raises(RunError, match="cannot write .*r.html"):
            report.write(tmp_path, tmp_path / "file" / "r.html")


def browser() -> str | None:
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium to open the page in")
def test_browser_finds_no_error(run: Path, page: str, tmp_path: Path) -> None:
    """Opened in Chromium: scripts ran, every image loaded, nothing was refused, and no error was written to the console."""
    recorder = """<script>
window.found = [];
console.error = function () { window.found.push(Array.from(arguments).join(" ")); };
window.addEventListener("error", function (event) { window.found.push(event.message || "a resource failed"); }, true);
window.addEventListener("unhandledrejection", function (event) { window.found.push(String(event.reason)); });
document.addEventListener("securitypolicyviolation", function (event) { window.found.push("refused " + event.blockedURI); });
</script>"""
    probe = """<script>
window.addEventListener("load", function () { setTimeout(function () {
  var images = Array.from(document.images).filter(function (image) { return !image.naturalWidth; }).length;
  var state = document.createElement("p");
  state.id = "probe";
  state.textContent = "broken images " + images + ", canvases " + document.querySelectorAll("#view canvas").length
    + ", errors [" + window.found.join("; ") + "]";
  document.body.appendChild(state);
}, 1500); });
</script></body>"""
    probed = tmp_path / "probed.html"
    head, _, tail = page.rpartition("</body>")
    probed.write_text(head.replace("<title>", recorder + "<title>", 1) + probe + tail)
    command = [
        browser() or "",
        *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
        probed.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    state = re.search(r'id="probe">broken images (\d+), canvases (\d+), errors \[(.*?)\]</p>', done.stdout, flags=re.DOTALL)
    assert state is not None, done.stderr[-2000:]
    assert state[1] == "0"
    assert state[3] == ""
    # The console also carries hints on speed from plotly's canvas and the graphics driver, which are no errors.
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "willReadFrequently" not in line]
    assert [line for line in console if "GL Driver Message" not in line] == []
    # Without WebGL the page says so instead of drawing.
    assert run.name == "dw4" or int(state[2]) > 0 or "needs WebGL" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1234, "0.12 s"), (9.87, "9.9 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (192.6, "3 min 13 s"), (7500.0, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
