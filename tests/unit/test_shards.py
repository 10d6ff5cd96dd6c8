"""Shards of a drawing: disjoint, complete, bit-identical to the whole, and what is wrong is named."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from boltzflow import datasets, reference, shards, targets
from boltzflow.config import ECNF, EGNN, GaussLegendre
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.build import build_flow
from boltzflow.reference import joining as frames
from boltzflow.sampling import Samples, joining
from boltzflow.sampling.generate import generate
from boltzflow.targets import Target

N, CHUNK, OF = 37, 8, 3


@pytest.fixture(scope="module")
def target() -> Target:
    return targets.get("dw4")


@pytest.fixture(scope="module")
def flow(target: Target) -> AbstractFlow:
    return build_flow(ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2)), target, 1.0, key=jax.random.key(0))


@pytest.fixture(scope="module")
def parts(flow: AbstractFlow, target: Target, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    files = [folder / f"part{number}.h5" for number in range(1, OF + 1)]
    for number, file in enumerate(files, 1):
        generate(flow, target, N, seed=5, chunk=CHUNK, out=file, shard=(number, OF), model="tiny")
    return files


class TestDivision:
    @pytest.mark.parametrize(("n", "of"), [(10, 3), (16, 16), (1_000_000, 7)])
    def test_shards_are_disjoint_and_complete(self, n, of):
        edges = [shards.bounds(n, (number, of)) for number in range(1, of + 1)]
        assert edges[0][0] == 0
        assert edges[-1][1] == n
        assert all(one[1] == other[0] for one, other in zip(edges, edges[1:], strict=False))
        sizes = [end - begin for begin, end in edges]
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize("text", ["3", "a/4", "0/4", "5/4", "-1/4", "1/0", "1/2/3", ""])
    def test_what_is_no_shard(self, text):
        with pytest.raises(ConfigError, match="shard"):
            shards.parsed(text)

    def test_more_shards_than_samples(self):
        with pytest.raises(ConfigError, match="3 samples cannot be divided into 4 shards"):
            shards.bounds(3, (1, 4))

    def test_seeds_of_shards_differ(self):
        found = {shards.seed_of((number, of), seed=seed) for seed in (0, 1) for of in (4, 5) for number in range(1, 5)}
        assert len(found) == 16


class TestSamples:
    def test_joined_shards_are_the_whole_bit_by_bit(self, flow, target, parts, tmp_path):
        whole = generate(flow, target, N, seed=5, chunk=CHUNK)
        assert joining.join(parts[::-1], tmp_path / "all.h5") == N
        joined = Samples.load(tmp_path / "all.h5", target)
        for name in ("positions", "log_q", "u", "log_weight", "status"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
        assert shards.META not in joined.meta
        assert joined.meta["energy_evaluations"] == whole.meta["energy_evaluations"] == N

    def test_a_shard_that_was_interrupted_goes_on_to_the_same_bits(self, flow, target, parts, tmp_path, monkeypatch):
        calls = []
        append = Samples.concatenate

        def stopping(found):
            calls.append(len(found))
            if len(calls) > 1:
                raise KeyboardInterrupt
            return append(found)

        # Each chunk is a file of its own.
        monkeypatch.setattr("boltzflow.sampling.generate.time.perf_counter", iter(np.arange(0.0, 1e5, 20.0)).__next__)
        monkeypatch.setattr(Samples, "concatenate", staticmethod(stopping))
        with pytest.raises(KeyboardInterrupt):
            generate(flow, target, N, seed=5, chunk=CHUNK, out=tmp_path / "part.h5", shard=(2, OF))
        monkeypatch.undo()
        with pytest.raises(DataError, match=r"part.h5 holds 4 of the 12 of shard 2/3; continue it with --resume"):
            joining.join([tmp_path / "part.h5"], tmp_path / "all.h5")
        again = generate(flow, target, N, seed=5, chunk=CHUNK, out=tmp_path / "part.h5", shard=(2, OF), resume=True)
        np.testing.assert_array_equal(again.positions, Samples.load(parts[1]).positions)

    def test_another_shard_does_not_continue_a_file(self, flow, target, parts):
        with pytest.raises(RunError, match="shard"):
            generate(flow, target, N, seed=5, chunk=CHUNK, out=parts[0], shard=(2, OF), resume=True, model="tiny")

    def test_what_is_missing_is_named(self, parts, tmp_path):
        with pytest.raises(DataError, match=r"1 of 3 shards is missing: 2/3; make .* by `boltzflow sample MODEL -n 37 --shard 2/3"):
            joining.join([parts[0], parts[2]], tmp_path / "all.h5")
        with pytest.raises(DataError, match="2 of 3 shards are missing: 1/3, 2/3"):
            joining.join([parts[2]], tmp_path / "all.h5")
        with pytest.raises(DataError, match=r"there are no samples at .*part9\.h5"):
            joining.join([*parts, parts[0].with_name("part9.h5")], tmp_path / "all.h5")
        assert not (tmp_path / "all.h5").exists()

    def test_what_is_there_twice_is_named(self, parts, tmp_path):
        with pytest.raises(DataError, match=r"shard 1/3 is there twice, in .*part1\.h5 and in .*part1\.h5"):
            joining.join([*parts, parts[0]], tmp_path / "all.h5")

    def test_parts_of_different_models_and_drawings(self, flow, target, parts, tmp_path):
        other = flow.with_network(jax.tree.map(lambda leaf: leaf * 1.5 if hasattr(leaf, "dtype") else leaf, flow.network))
        wrong = tmp_path / "wrong.h5"
        generate(other, target, N, seed=5, chunk=CHUNK, out=wrong, shard=(2, OF))
        with pytest.raises(DataError, match=r"wrong\.h5 and .*part1\.h5 are of different models: they differ in the weights of the flow"):
            joining.join([parts[0], wrong, parts[2]], tmp_path / "all.h5")
        seeded = tmp_path / "seeded.h5"
        generate(flow, target, N, seed=6, chunk=CHUNK, out=seeded, shard=(2, OF))
        with pytest.raises(DataError, match=r"differ in seed \(6 and 5\)"):
            joining.join([parts[0], seeded, parts[2]], tmp_path / "all.h5")
        divided = tmp_path / "divided.h5"
        generate(flow, target, N, seed=5, chunk=CHUNK, out=divided, shard=(2, 4))
        with pytest.raises(DataError, match="one of 4 shards of 37"):
            joining.join([parts[0], divided, parts[2]], tmp_path / "all.h5")

    def test_whole_samples_and_files_in_the_way(self, flow, target, parts, tmp_path):
        generate(flow, target, 5, seed=5, chunk=CHUNK, out=tmp_path / "whole.h5")
        with pytest.raises(DataError, match="holds no shard"):
            joining.join([tmp_path / "whole.h5"], tmp_path / "all.h5")
        with pytest.raises(RunError, match="exists already"):
            joining.join(parts, tmp_path / "whole.h5")
        with pytest.raises(DataError, match="there are no shards to join"):
            joining.join([], tmp_path / "all.h5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    files = [folder / f"data{number}.h5" for number in (1, 2)]
    for number, file in enumerate(files, 1):
        reference.sample(targets.get("dw4"), 128, seed=3, chains=4, out=file, shard=(number, 2))
    return files


class TestReference:
    def test_shards_are_independent_and_join(self, data, tmp_path):
        joined = frames.join(data[::-1], tmp_path / "all.h5")
        one, other = (datasets.read(file) for file in data)
        assert not np.array_equal(one.positions, other.positions)
        loaded = datasets.load(tmp_path / "all.h5", targets.get("dw4"))
        assert loaded.n == joined.n == 128
        np.testing.assert_allclose(loaded.positions, np.concatenate([one.positions, other.positions]), atol=1e-6)
        assert joined.provenance["chains"] == 8
        assert joined.provenance["seed"] == 3
        for name in ("ess_energy", "gradient_evaluations"):
            assert joined.provenance[name] == pytest.approx(float(one.provenance[name]) + float(other.provenance[name]))
        assert 0.9 < float(joined.provenance["r_hat_energy"]) < 1.2

    def test_wrong_shards(self, data, tmp_path):
        with pytest.raises(DataError, match="1 of 2 shards is missing: 2/2"):
            frames.join(data[:1], tmp_path / "all.h5")
        with pytest.raises(DataError, match="there twice"):
            frames.join([*data, data[1]], tmp_path / "all.h5")
        one = datasets.read(data[1])
        strange = {**one.provenance, "shard_seed": 9}
        dataclasses.replace(one, provenance=strange).save(tmp_path / "strange.h5")
        with pytest.raises(DataError, match=r"differ in seed \(9 and 3\)"):
            frames.join([data[0], tmp_path / "strange.h5"], tmp_path / "all.h5")

    def test_shards_that_do_not_agree_are_told(self, data, tmp_path):
        one = datasets.read(data[1])
        shifted = dataclasses.replace(one, positions=one.positions * 1.5)
        shifted.save(tmp_path / "shifted.h5")
        joined = frames.join([data[0], tmp_path / "shifted.h5"], tmp_path / "all.h5")
        assert float(joined.provenance["r_hat_radius_of_gyration"]) > 1.2
        assert not joined.provenance["converged"]

    def test_an_effective_number_has_no_shards(self):
        with pytest.raises(ConfigError, match="divided into shards"):
            reference.sample(targets.get("dw4"), effective=10, shard=(1, 2))
