"""Qwen3-32B with Qwen3-0.6B on 8 GPUs of 80 GB or a v5e-8: copies of the target against tensor parallelism.

  python launch/generate.py --config=configs/qwen3_32b.py:sp7 --algorithm=all --out=out/qwen3_32b_sp7
  python launch/generate.py --config=configs/qwen3_32b.py:sp3 --algorithm=all --out=out/qwen3_32b_sp3
  python launch/generate.py --config=configs/qwen3_32b.py:tp4 --algorithm=all --out=out/qwen3_32b_tp4
  python launch/generate.py --config=configs/qwen3_32b.py:tp8_shared --algorithm=non_si,si --out=out/qwen3_32b_tp8

Purpose: the same chips used in three ways. sp7: a copy of the target on each of seven GPUs, and the drafter on one.
sp3: three copies of two GPUs. tp4: one copy of four. 32B need 66 GB, and its 64 heads divide over 1, 2, 4 or 8 chips:
a v5e-8 holds them on all eight chips alone and a v4-8 host on all four, so that no chip is left for a drafter of its
own. tp8_shared is for a v5e-8: the drafter stands on the target's eight chips, and they work in turn. SI can do that,
DSI cannot. launch/plan.py --topology=v5e:2x4 finds no quicker layout there.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.8 (an assumption), one prompt, and 50 us
of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  sp7      8 A100   44.04    1.04      22.6    80.5    90.7
  sp3      7 A100   24.29    1.04      41.0   127.4   151.3
  tp4      5 A100   14.16    1.04      70.3   188.0   208.1
  tp8_shared  8 v5e 15.43    0.71      64.5   196.7

  python launch/expect.py --config=configs/qwen3_32b.py:sp7 --chip=a100 --acceptance=0.8 \\
      --target=configs/models/qwen3-32b --drafter=configs/models/qwen3-0.6b
  python launch/expect.py --config=configs/qwen3_32b.py:tp8_shared --chip=v5e --acceptance=0.8 \\
      --target=configs/models/qwen3-32b --drafter=configs/models/qwen3-0.6b

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

Cost: 8 GPUs or a v5e-8 for about forty minutes, most of it for fetching and loading 66 GB.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource

VARIANTS = {
    "sp7": MeshConfig(sp_degree=7),
    "sp3": MeshConfig(sp_degree=3, target_tp=2),
    "tp4": MeshConfig(sp_degree=1, target_tp=4),
    "tp8_shared": MeshConfig(sp_degree=1, target_tp=8, drafter_tp=8, drafter_shares=True),
}


def get_config(layout: str = "sp7") -> Config:
    common = {"max_length": 2048, "prefill_width": 256, "dtype": "bfloat16"}
    return Config(
        target=ModelSource("hub:Qwen/Qwen3-32B", verify_width=32, **common),
        drafter=DrafterConfig(model=ModelSource("hub:Qwen/Qwen3-0.6B", **common)),
        mesh=VARIANTS[layout],
        algorithm="si" if VARIANTS[layout].drafter_shares else "dsi",
        max_new_tokens=256,
        chat=True,
        prompts=("Explain speculative decoding in three sentences.",),
    )
