"""Set up before any test module is imported: two CPU devices, and a compile cache that is not the user's."""

import gc
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

# Programs of tests run once or twice: what optimising them costs is not won back, and XLA's newer way of generating code for the CPU takes
# three times as long as the older one. Processes that tests start inherit both; `make test-all` leaves them out, and so tests the
# programs that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAG = "--xla_cpu_use_fusion_emitters=false"
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

# Test modules are imported by their path; what they share lies beside this file.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import checking  # noqa: E402

# Every call is checked against the annotations, unless a variable says no. Processes that tests start run what users run, unchecked.
if os.environ.get("BOLTZFLOW_CHECKED", "1") != "0":
    checking.install()

# Arrays of different ranks are broadcast in so many words: a forgotten axis is an error, not another number.
jax.config.update("jax_numpy_rank_promotion", "raise")

# So that what is shared over devices is tested on a machine without any. Must come before JAX makes its first array.
jax.config.update("jax_num_cpu_devices", 2)

# In the tests of the project's own arithmetic JAX promotes no types either. Training is left out, because optax mixes whole numbers with
# floats; so is what has not been seen to pass.
STRICT_TYPES = {"test_nets", "test_flows", "test_images"}

# Where programs run for longer than it takes to optimise them.
OPTIMISED = {"test_averaging", "test_shipped_molecules"}


# A worker holds millions of objects that live as long as it does (traced and compiled programs): looked through less often.
gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _optimised(request: pytest.FixtureRequest) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", before and request.path.stem not in OPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def _strict_types(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict" if request.path.stem in STRICT_TYPES else "standard"):
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Gives the processes that tests start a cache of compiled programs that they share and that is thrown away in the end."""
    if "BOLTZFLOW_CACHE" not in os.environ:  # the workers of pytest-xdist inherit it
        os.environ["BOLTZFLOW_CACHE"] = folder = tempfile.mkdtemp(prefix="boltzflow-test-cache-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
