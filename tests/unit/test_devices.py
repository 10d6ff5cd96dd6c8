"""Samples and densities on eight devices: those of one device, bit by bit."""

import json
import os
import subprocess
import sys

import jax
import pytest

from boltzflow.errors import ConfigError
from boltzflow.sampling import devices

# In a process of its own, for the number of devices is set once.
CODE = """
import json, sys
import jax, numpy as np
from boltzflow import targets, reference, datasets
from boltzflow.config import ECNF, EGNN, GaussLegendre
from boltzflow.flows.build import build_flow
from boltzflow.sampling import devices
from boltzflow.sampling.generate import generate, log_density, log_importance_ratios
from boltzflow.evaluation import frames
from boltzflow.sampling import correct
from corrections import normal

target = targets.get("dw4")
flow = build_flow(ECNF(EGNN(layers=1, hidden=4), GaussLegendre(2)), target, 1.0, key=jax.random.key(0))
assert len(jax.local_devices()) == 8
seen = []
real = devices.over
devices.over = lambda function, mesh, *rest: (seen.append(mesh.size), real(function, mesh, *rest))[1]
found = {}
one = generate(flow, target, 100, seed=3, chunk=8)
for count in (2, 8):
    some = generate(flow, target, 100, seed=3, chunk=8, devices=count)
    for name in ("positions", "log_q", "u", "log_weight"):
        a, b = getattr(one, name), getattr(some, name)
        found[f"{name} {count}"] = [bool(np.array_equal(a, b)), float(np.max(np.abs(a - b)))]
part = generate(flow, target, 100, seed=3, chunk=8, devices=8, shard=(2, 3))
found["shard"] = [bool(np.array_equal(part.positions, one.positions[33:66])), 0.0]
x = one.positions
a, b = log_density(flow, x, chunk=8), log_density(flow, x, chunk=8, devices=8)
found["log density"] = [bool(np.array_equal(a.log_q, b.log_q)), float(np.max(np.abs(a.log_q - b.log_q)))]
# Corrections, whose populations and groups of chains are on four devices in turn.
wide, used = normal(target, 1.6), []
on = devices.on
devices.on = lambda places, number: (used.append(number % len(places)), on(places, number))[1]
for method, asked in ((correct.smc, {"population": 16, "moves": 1}), (correct.metropolis, {"chains": 16})):
    alone = method(wide, target, 512, seed=3, leapfrog=2, **asked)
    used.clear()
    some = method(wide, target, 512, seed=3, leapfrog=2, devices=4, **asked)
    for name in ("positions", "u", "log_weight"):
        a, b = getattr(alone, name), getattr(some, name)
        found[f"{method.__name__} {name}"] = [bool(np.array_equal(a, b)), float(np.max(np.abs(a - b)))]
    assert set(used) == {0, 1, 2, 3}, used
# What an evaluation does with accelerators: all devices unless told otherwise.
assert devices.mesh(None, 100) is None
jax.default_backend = lambda: "gpu"
assert devices.mesh(None, 100).size == 8
assert devices.mesh(None, 3).size == 3
print(json.dumps({"found": found, "seen": sorted(set(seen))}))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    # For the closed-form flow of the tests.
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_samples_and_densities_of_eight_devices_are_those_of_one(found):
    assert found["seen"] == [2, 5, 8]
    for name, (same, apart) in found["found"].items():
        assert same, f"{name} differs by {apart}"


def test_more_devices_than_there_are():
    with pytest.raises(ConfigError, match=f"9 devices were asked for, and JAX sees {len(jax.local_devices())} here"):
        devices.mesh(9, 100)
    with pytest.raises(ConfigError, match="0 devices"):
        devices.mesh(0, 100)
