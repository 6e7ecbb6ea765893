"""The embedded pair on eight devices: a drafter and seven target servers, the paper's single node (section 4).

  make demo
  python launch/generate.py --config=configs/demo.py --algorithm=all --backend=paced

Expected: the three algorithms print the same text. Paced at 20.6 / 6.8 ms DSI is first, SI second. Unpaced, SI is
first: the eight servers share the CPU's cores, and DSI needs a processor for each.
Cost: seconds on 2 cores.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource, Sampling

MAX_LENGTH = 256  # the windows the pair was trained on; a longer cache only slows its attention down


def get_config() -> Config:
    return Config(
        target=ModelSource("embedded:target", max_length=MAX_LENGTH),
        drafter=DrafterConfig(model=ModelSource("embedded:drafter", max_length=MAX_LENGTH)),
        mesh=MeshConfig(sp_degree=7),
        sampling=Sampling(temperature=0.6, top_p=0.9, seed=2),
        max_new_tokens=100,
        prompts=('def read_lines(path):\n    """Return',),
    )
