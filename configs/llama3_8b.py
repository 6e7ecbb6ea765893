"""Llama-3.1-8B with Llama-3.2-1B, on 8 GPUs, on a v5e-8 or on a v4-8 host.

  python launch/generate.py --config=configs/llama3_8b.py:gpu-8 --algorithm=all --out=out/llama3_8b
  CARD=configs/llama3_8b.py:v5e-8 bash launch/tpu/vm.sh all                          (docs/tpu_vm.md says more)

Purpose: a pair of today, as many copies of the target as the chips hold. gpu-8: seven of 8 GPUs. v5e-8: 8B need 16 GB,
all that a chip has, so three copies of two chips. v4-8: four chips of 32 GiB, so three copies.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.8 (an assumption), one prompt, and 50 us
of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  gpu-8    8 A100   10.48    1.79      95.0   187.1   270.6
  v5e-8     7 v5e   13.23    4.37      75.3   110.8   159.2
  v4-8       4 v4   17.77    3.00      56.1   111.0   154.9

  python launch/expect.py --config=configs/llama3_8b.py:gpu-8 --chip=a100 --acceptance=0.8 \\
      --target=configs/models/llama-3-8b --drafter=configs/models/llama-3.2-1b

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

Cost: 8 GPUs or a TPU host for about twenty minutes, most of it for fetching and loading 16 + 2.5 GB. Both models are
on the hub, behind a licence that must be accepted there.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource

VARIANTS = {
    "gpu-8": MeshConfig(sp_degree=7),
    "v5e-8": MeshConfig(sp_degree=3, target_tp=2),
    "v4-8": MeshConfig(sp_degree=3),
}


def get_config(machine: str = "gpu-8") -> Config:
    common = {"max_length": 2048, "prefill_width": 256, "dtype": "bfloat16"}
    return Config(
        target=ModelSource("hub:meta-llama/Llama-3.1-8B-Instruct", **common),
        drafter=DrafterConfig(model=ModelSource("hub:meta-llama/Llama-3.2-1B-Instruct", **common)),
        mesh=VARIANTS[machine],
        max_new_tokens=256,
        chat=True,
        prompts=("Explain speculative decoding in three sentences.",),
    )
