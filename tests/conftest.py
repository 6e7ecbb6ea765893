"""A strict test world: eight virtual CPU devices of one core each, no silent rank promotion, warnings are errors.

What is compiled is shared by all processes of one run of the tests, those of launch scripts among them, and by no other
run.
"""

import os
import shutil
import tempfile

import jax
import pytest

from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.programs.kept import keep_compiled

IS_FIRST = "DSI_TESTS_COMPILED" not in os.environ  # the process that starts all others
COMPILED = tempfile.mkdtemp(prefix="dsi-jax-tests-") if IS_FIRST else os.environ["DSI_TESTS_COMPILED"]

jax.config.update("jax_platforms", "cpu")  # libtpu may be installed, and there may be an accelerator
use_cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
keep_compiled(COMPILED)
os.environ |= {  # for the processes that tests start
    "DSI_TESTS_COMPILED": COMPILED,
    "JAX_COMPILATION_CACHE_DIR": COMPILED,
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(jax.config.jax_compilation_cache_max_size),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    assert len(jax.devices()) == 8


def pytest_sessionfinish():
    if IS_FIRST:
        shutil.rmtree(COMPILED, ignore_errors=True)
