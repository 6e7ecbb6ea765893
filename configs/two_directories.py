"""Your own target and drafter, two local Hugging Face directories, on eight chips of one host.

  python launch/generate.py --config=configs/two_directories.py --algorithm=all --out=out/mine \\
      --set=target.path=/models/SmolLM2-1.7B-Instruct --set=drafter.model.path=/models/SmolLM2-135M-Instruct

Seven chips of eight: three target servers over two chips each, and the drafter on one. Change the split with
--set=mesh.sp_degree=..., --set=mesh.target_tp=... and --set=mesh.drafter_tp=...; an impossible one is refused with
the arithmetic. docs/models.md lists the families and formats. Both models must have the same tokenizer.
Expected: one text three times, and a last line that says which algorithm was the fastest there.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource


def get_config() -> Config:
    return Config(
        target=ModelSource("target", max_length=4096, prefill_width=256, dtype="bfloat16"),
        drafter=DrafterConfig(model=ModelSource("drafter", max_length=4096, prefill_width=256, dtype="bfloat16")),
        mesh=MeshConfig(sp_degree=3, target_tp=2, drafter_tp=1),
        chat=True,
        max_new_tokens=256,
        prompts=("Explain speculative decoding in three sentences.",),
    )
