"""Vicuna-13B with Vicuna-68M, a pair of the paper, on 8 GPUs, on a v5e-8 or on a v4-8 host.

  python launch/generate.py --config=configs/vicuna.py:gpu-8 --algorithm=all --out=out/vicuna \\
      --set=target.path=/models/vicuna-13b
  CARD=configs/vicuna.py:v4-8 bash launch/tpu/vm.sh all                              (docs/tpu_vm.md says more)

Purpose: a drafter that takes almost no time and is often wrong. gpu-8: 8 GPUs of 80 GB, a copy of the target on seven
of them, as in the paper. v5e-8: 13B need 26 GB and a chip has 16, so three copies of two chips. v4-8: four chips of 32
GiB, so three copies. Vicuna-7B: --set=target.path=... as well.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.63 (as the paper measured on CNN-DM), one
prompt, and 50 us of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  gpu-8    8 A100   18.85    0.12      52.8   132.2   130.6
  v5e-8     7 v5e   23.90    0.22      41.7   102.1   101.2
  v4-8       4 v4   31.99    0.17      31.1    78.7    76.0

  python launch/expect.py --config=configs/vicuna.py:gpu-8 --chip=a100 --acceptance=0.63 \\
      --target=configs/models/vicuna-13b --drafter=configs/models/vicuna-68m

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

SI and DSI are level: drafts cost next to nothing, so there is little for DSI to hide. The paper measured 2.5 ms for a
draft token of this pair, and 37.7 ms for a forward of the target. With these, gpu-8 reaches in virtual time: non-SI
26.5, SI 50.9 and DSI 62.3 tokens/s:

  python launch/simulate.py --target_ms=37.7 --drafter_ms=2.5 --acceptance=0.63 --sp_degree=7 --new_tokens=256

Cost: 8 GPUs or a TPU host for about half an hour, most of it for fetching and loading 26 GB. Where a repository holds
its weights as .bin alone, as Vicuna's did, they are refused, for reading them runs code. Then save the model once with
Transformers (`save_pretrained`, and the tokenizer's too), and give that directory as target.path.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource

VARIANTS = {
    "gpu-8": MeshConfig(sp_degree=7),
    "v5e-8": MeshConfig(sp_degree=3, target_tp=2),
    "v4-8": MeshConfig(sp_degree=3),
}
ASSISTANT = "A chat between a curious user and an artificial intelligence assistant. It gives helpful answers."


def get_config(machine: str = "gpu-8") -> Config:
    common = {"max_length": 2048, "prefill_width": 256, "dtype": "bfloat16"}
    return Config(
        target=ModelSource("hub:lmsys/vicuna-13b-v1.3", verify_width=32, **common),
        drafter=DrafterConfig(model=ModelSource("hub:double7/vicuna-68m", **common)),
        mesh=VARIANTS[machine],
        max_new_tokens=256,
        prompts=(f"{ASSISTANT} USER: Give three tips for staying healthy. ASSISTANT:",),
    )
