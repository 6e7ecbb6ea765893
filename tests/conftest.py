"""A strict test world: eight virtual CPU devices of one core each, no silent rank promotion, warnings are errors."""

import jax
import pytest

from dsi_jax.placement.host import use_cpu_devices

jax.config.update("jax_platforms", "cpu")  # libtpu may be installed, and there may be an accelerator
use_cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    assert len(jax.devices()) == 8
