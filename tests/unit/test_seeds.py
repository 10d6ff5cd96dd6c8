"""Seeds have 64 bits, all of which count, in single and in double precision."""

import jax
import numpy as np
import pytest

from boltzflow import reference, seeds, targets
from boltzflow.config import ECNF, EGNN, GaussLegendre
from boltzflow.errors import ConfigError
from boltzflow.flows.build import build_flow
from boltzflow.sampling.generate import generate, sample_keys

DATA = jax.random.key_data


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 - 1])
def test_small_seeds_give_jax_s_own_keys(seed):
    np.testing.assert_array_equal(DATA(seeds.key(seed)), DATA(jax.random.key(seed)))


def test_every_bit_counts_in_both_precisions():
    numbers = [5, 5 + 2**32, 5 + 2**33, 5 + 2**62, 5 + 2**63, 2**64 - 1]
    keys = [tuple(np.asarray(DATA(seeds.key(number)))) for number in numbers]
    assert len(set(keys)) == len(numbers)
    with jax.enable_x64(True):
        assert [tuple(np.asarray(DATA(seeds.key(number)))) for number in numbers] == keys
    assert not np.array_equal(DATA(sample_keys(0, 2, seed=3)), DATA(sample_keys(0, 2, seed=3 + 2**32)))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", None, True])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ConfigError, match="seed must be a whole number from 0 to 18446744073709551615"):
        seeds.checked(seed)


def test_numpy_s_numbers_are_seeds_and_the_last_is_followed_by_the_first():
    assert seeds.checked(np.uint64(2**64 - 1)) == 2**64 - 1
    assert seeds.after(2**64 - 1) == 0
    assert seeds.after(4) == 5


def test_samplers_take_them_or_say_a_sentence():
    target = targets.double_well()
    small = ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2))
    flow = build_flow(small, target, 1.0, key=seeds.key(0))
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match=f"got {seed}"):
            generate(flow, target, 3, seed=seed)
        with pytest.raises(ConfigError, match=f"got {seed}"):
            reference.sample(target, 3, seed=seed)
    a, b = (generate(flow, target, 4, seed=seed, chunk=4) for seed in (2**63 + 1, 1))
    assert np.isfinite(a.log_q).all()
    assert not np.allclose(a.positions, b.positions)
