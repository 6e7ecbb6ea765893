"""Run a launcher as a client of Pathways, where one process sees the chips of all hosts.

  python launch/cluster/pathways.py launch/generate.py --config=configs/llama3_8b.py:v5e-8 --out=out/pathways

The launcher is the same, and so is its `device` backend: only jax is told where the devices are, before it is first
used. It needs `pip install pathwaysutils`, and a job of Pathways whose proxy JAX_BACKEND_TARGET names. Never run on
real chips: see docs/pods.md.
"""

import os
import runpy
import sys
from pathlib import Path


def main(arguments: list[str]) -> str | None:
    """Run a script with its flags; returns a line of what is wrong."""
    if not arguments or not Path(arguments[0]).is_file():
        given = (arguments or ["nothing"])[0]
        return f"error: {given} is no launcher; give one, such as launch/generate.py, and its flags"
    if "JAX_BACKEND_TARGET" not in os.environ:
        return "error: JAX_BACKEND_TARGET is not set; set it to the address of the Pathways proxy"
    os.environ["JAX_PLATFORMS"] = "proxy"
    try:
        import pathwaysutils
    except ImportError:
        return "error: pathwaysutils is not installed; run pip install pathwaysutils"
    pathwaysutils.initialize()
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))  # as Python does for a script
    runpy.run_path(arguments[0], run_name="__main__")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
