"""Which layout? The embedded pair on up to eight virtual devices of any machine, for launch/sweep.py.

  python launch/sweep.py --config=configs/mesh_layouts.py --backend=paced --target_ms=20.6 --drafter_ms=6.8 \\
      --grid=mesh.sp_degree=1,2,4,7 --grid=lookahead=1,2,5,auto --seeds=0,1,2 --out=out/mesh_paced
  python launch/sweep.py --config=configs/mesh_layouts.py --grid=mesh.sp_degree=1,3 --grid=mesh.target_tp=1,2 \\
      --seeds=0,1,2 --out=out/mesh_device
  python launch/generate.py --config=configs/mesh_layouts.py --algorithm=all --set=mesh.sp_degree=2

Purpose: how speed depends on the number of target servers, on the devices of each, and on the lookahead. A paced
sweep holds forwards to latencies that the paper measured for StarCoder; a sweep on the devices of a CPU shows that they
share cores.

Expected: in virtual time, which needs no models and takes seconds, at an acceptance rate of 0.8:

  python launch/sweep.py --config=configs/mesh_layouts.py --backend=virtual --target_ms=20.6 --drafter_ms=6.8 \\
      --acceptance=0.8 --grid=mesh.sp_degree=1,2,4,7 --seeds=0,1,2,3,4,5,6,7 --out=out/mesh_virtual

  tokens/s   SP 1    SP 2    SP 4    SP 7
  non-SI     48.5    48.5    48.5    48.5
  SI         69.6    69.6    69.6    69.6
  DSI        87.1    95.0    99.7    99.7

Three target servers are enough here: t is three times c. Paced runs come close to it, with the pair's own acceptance.
Cost: minutes on 2 cores.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource, Sampling

MAX_LENGTH = 256  # the windows the pair was trained on; a longer cache only slows its attention down


def get_config() -> Config:
    return Config(
        target=ModelSource("embedded:target", max_length=MAX_LENGTH),
        drafter=DrafterConfig(model=ModelSource("embedded:drafter", max_length=MAX_LENGTH)),
        mesh=MeshConfig(sp_degree=3, target_tp=1),
        sampling=Sampling(temperature=0.6, top_p=0.9),
        max_new_tokens=100,
        prompts=("def main():\n", "import os\n\n\nclass ", 'def read_lines(path):\n    """Return'),
    )
