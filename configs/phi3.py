"""Phi-3-medium (14B) with Phi-3-mini (3.8B), a pair of the paper, on 8 GPUs, on a v5e-8 or on a v4-8 host.

  python launch/generate.py --config=configs/phi3.py:gpu-8 --algorithm=all --out=out/phi3
  CARD=configs/phi3.py:v5e-8 bash launch/tpu/vm.sh all                               (docs/tpu_vm.md says more)

Purpose: a drafter that takes more than half as long as the target, and is nearly always right. gpu-8: 8 GPUs of 80 GB,
a copy of the target on seven of them, as in the paper. v5e-8: 14B need 28 GB and a chip has 16, so three copies of two
chips. v4-8: four chips of 32 GiB, so three copies.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.95 (as the paper measured on HumanEval),
one prompt, and 50 us of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  gpu-8    8 A100   19.17    5.74      51.9   112.3   150.3
  v5e-8     7 v5e   24.08   14.21      41.4    55.7    66.7
  v4-8       4 v4   32.53    9.72      30.6    66.4    87.4

  python launch/expect.py --config=configs/phi3.py:gpu-8 --chip=a100 --acceptance=0.95 \\
      --target=configs/models/phi-3-medium --drafter=configs/models/phi-3-mini

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

The paper measured 34.0 ms for a draft token of this pair, and 52.1 ms for a forward of the target. With these, gpu-8
reaches in virtual time: non-SI 19.2, SI 24.1 and DSI 27.9 tokens/s:

  python launch/simulate.py --target_ms=52.1 --drafter_ms=34.0 --acceptance=0.95 --sp_degree=7 --new_tokens=256

Cost: 8 GPUs or a TPU host for about half an hour, most of it for fetching and loading 28 + 8 GB.
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
        target=ModelSource("hub:microsoft/Phi-3-medium-4k-instruct", **common),
        drafter=DrafterConfig(model=ModelSource("hub:microsoft/Phi-3-mini-4k-instruct", **common)),
        mesh=VARIANTS[machine],
        max_new_tokens=256,
        chat=True,
        prompts=("Write a Python function that checks whether a number is prime, and explain it.",),
    )
