"""StarCoder-15B with tiny_starcoder (164M), a pair of the paper, on 8 GPUs, on a v5e-8 or on a v4-8 host.

  python launch/generate.py --config=configs/starcoder.py:gpu-8 --algorithm=all --out=out/starcoder
  CARD=configs/starcoder.py:v5e-8 bash launch/tpu/vm.sh all                          (docs/tpu_vm.md says more)

Purpose: the paper's layout, one chip for the drafter and the others for as many copies of the target as they hold, on
three machines. gpu-8: 8 GPUs of 80 GB, the paper's node. v5e-8: a copy needs 31 GB, and a chip has 16, so that two
copies of three chips find room. v4-8: four chips of 32 GiB, so three copies.

Expected: tokens/s that the roofline predicts; nothing was run. Acceptance 0.93 (as the paper measured on HumanEval),
one prompt, and 50 us of the host's work for each forward, which is an assumption.

            chips    t ms    c ms    non-SI      SI     DSI
  gpu-8    8 A100   21.22    0.28      46.9   423.1   361.4
  v5e-8     7 v5e   18.66    0.63      53.3   352.9   443.5
  v4-8       4 v4   36.03    0.44      27.7   256.4   227.9

  python launch/expect.py --config=configs/starcoder.py:gpu-8 --chip=a100 --acceptance=0.93 \\
      --target=configs/models/starcoder-15b --drafter=configs/models/starcoder-168m

launch/plan.py takes the same flags and --devices=8, and says which layout would be better.

On gpu-8 and v4-8 SI is ahead: drafts cost next to nothing there, and a copy that was idle for six blocks must catch up
on more tokens than fit into one run of its program. The roofline knows no better than that. The paper measured 6.8 ms
for a draft token of this pair and 20.6 ms for a forward, and with these gpu-8 reaches in virtual time: non-SI 48.5, SI
92.5 and DSI 127.4 tokens/s:

  python launch/simulate.py --target_ms=20.6 --drafter_ms=6.8 --acceptance=0.93 --sp_degree=7 --new_tokens=256

Cost: 8 GPUs or a TPU host for about half an hour, most of it for fetching and loading 31 GB. Both models are on the
hub, StarCoder behind a licence that must be accepted there.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource

VARIANTS = {
    "gpu-8": MeshConfig(sp_degree=7),
    "v5e-8": MeshConfig(sp_degree=2, target_tp=3),
    "v4-8": MeshConfig(sp_degree=3),
}
PROMPT = '''from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if in given list of numbers, are any two numbers closer to each other than given threshold. """
'''


def get_config(machine: str = "gpu-8") -> Config:
    common = {"max_length": 2048, "prefill_width": 256, "dtype": "bfloat16"}
    return Config(
        target=ModelSource("hub:bigcode/starcoder", verify_width=32, **common),
        drafter=DrafterConfig(model=ModelSource("hub:bigcode/tiny_starcoder_py", **common)),
        mesh=VARIANTS[machine],
        max_new_tokens=256,
        prompts=(PROMPT,),
    )
