"""The embedded pair on eight devices: a drafter and seven target servers, the paper's single node (section 4).

  make demo
  python launch/generate.py --config=configs/demo.py --algorithm=all --backend=paced

Expected: the three algorithms print the same text. Paced at 20.6 / 6.8 ms DSI is first, SI second. Unpaced, on CPU
cores that the eight servers share, non-SI or SI wins: speculation parallelism needs processors of its own.
Cost: seconds on 2 cores.
"""

from dsi_jax import Config, MeshConfig


def get_config() -> Config:
    return Config(
        mesh=MeshConfig(sp_degree=7),
        max_new_tokens=100,
        prompts=('def read_lines(path):\n    """Return',),
    )
