"""Llama-3.1-70B with Llama-3.2-1B on 8 GPUs of 80 GB: copies of the target against tensor parallelism.

  python launch/generate.py --config=configs/llama3_70b.py:sp3 --algorithm=all --out=out/llama3_70b_sp3
  python launch/generate.py --config=configs/llama3_70b.py:tp4 --algorithm=all --out=out/llama3_70b_tp4

Purpose: the same chips used in two ways. sp3: three copies of the target, of two GPUs each, and one GPU for the
drafter. tp4: one copy of four GPUs, and four for the drafter. 70B need 141 GB, which neither a v5e-8 (128 GB) nor a
v4-8 host (137 GB) holds.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.8 (an assumption), one prompt, and 50 us
of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  sp3      7 A100   50.55    1.79      19.7    64.2    74.6
  tp4      8 A100   27.87    1.23      35.7   110.3   117.0

  python launch/expect.py --config=configs/llama3_70b.py:sp3 --chip=a100 --acceptance=0.8 \\
      --target=configs/models/llama-3-70b --drafter=configs/models/llama-3.2-1b

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

So, over links this fast, chips do more for the speed of one copy than as further copies. Cost: 8 GPUs for about an
hour, most of it for fetching and loading 141 GB. Both models are on the hub, behind a licence that must be accepted
there.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource

VARIANTS = {
    "sp3": MeshConfig(sp_degree=3, target_tp=2),
    "tp4": MeshConfig(sp_degree=1, target_tp=4, drafter_tp=4),
}


def get_config(layout: str = "sp3") -> Config:
    common = {"max_length": 2048, "prefill_width": 256, "dtype": "bfloat16"}
    return Config(
        target=ModelSource("hub:meta-llama/Llama-3.1-70B-Instruct", verify_width=32, **common),
        drafter=DrafterConfig(model=ModelSource("hub:meta-llama/Llama-3.2-1B-Instruct", **common)),
        mesh=VARIANTS[layout],
        max_new_tokens=256,
        chat=True,
        prompts=("Explain speculative decoding in three sentences.",),
    )
