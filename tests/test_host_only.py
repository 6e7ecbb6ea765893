"""What runs on the host alone loads no jax: neither on import, nor in a simulated run. Seen in fresh processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = "jax", "jaxlib", "flax", "optax", "orbax", "matplotlib"

IMPORT = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    importlib.import_module(module.name)
print(*sys.modules)
"""

SIMULATE = """
import sys
from dsi_jax.base import Blocks
from dsi_jax.policies import POLICIES
from dsi_jax.simulation.setting import Setting, virtual_run
setting = Setting(20.6, 6.8, 0.9)
for policy in POLICIES.values():
    assert virtual_run(setting, policy, Blocks(0, 2), [False, False, True] * 17).wall_s > 0
    policy.auto(setting.forecast, 7, 200)
print(*sys.modules)
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh process has at its end."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("package", ["base", "control", "planning", "policies", "simulation", "telemetry"])
def test_host_side_packages_load_no_jax(package):
    modules = loaded(IMPORT, f"dsi_jax.{package}")
    assert "dsi_jax" in modules and modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["rows", "example", "algorithm1_example", "measurement", "markdown", "accounting"])
def test_what_the_reproduction_reads_and_plays_by_events_loads_no_jax(module):
    assert loaded(IMPORT, f"dsi_jax.paper.{module}").isdisjoint(HEAVY)


def test_a_simulated_run_loads_no_jax():
    assert loaded(SIMULATE).isdisjoint(HEAVY)
