"""Where SP pays: the best layout against the number of chips and the links between hosts.

  python launch/reproduce.py --artifact=crossover --out=out/paper

The pairs of the paper with its acceptance rates, and two of today's with a rate that is assumed. Latencies are those of
the roofline of configs/chips.py with sizes of configs/models, on hosts of 8 chips; nothing is measured and nothing
needs a device. Expected: on one host of 8 chips SI is best or within 2 % of the best. From 32 chips on SP is ahead by
1.03 to 1.23, across links of up to 50 us, for slower pairs up to 500 us, and never across 5 ms. docs/crossover.md has
the tables. Cost: about two minutes on 2 cores.
"""

from pathlib import Path

from dsi_jax.paper.protocols.crossover import Crossover, Pair, Published

MODELS = Path(__file__).parent / "models"


def get_config() -> Crossover:
    names = (
        ("Vicuna-13B + 68M", "vicuna-13b", "vicuna-68m", 0.63, "as in the paper on CNN-DM"),
        ("Vicuna-7B + 68M", "vicuna-7b", "vicuna-68m", 0.67, "as in the paper on CNN-DM"),
        ("StarCoder-15B + 168M", "starcoder-15b", "starcoder-168m", 0.93, "as in the paper on HumanEval"),
        ("Phi-3-14B + 4B", "phi-3-medium", "phi-3-mini", 0.95, "as in the paper on HumanEval"),
        ("Llama-3-70B + 1B", "llama-3-70b", "llama-3.2-1b", 0.8, "assumed"),
        ("Qwen3-32B + 0.6B", "qwen3-32b", "qwen3-0.6b", 0.8, "assumed"),
    )
    pairs = [Pair(name, str(MODELS / target), str(MODELS / drafter), *rest) for name, target, drafter, *rest in names]
    # gpt-fast's README: batch 1, bf16, A100-80GB at 330 W; both models have 32,000 tokens
    published = (
        Published("7B", str(MODELS / "vicuna-7b"), 32_000, {1: 104.9, 2: 168.84, 4: 254.02, 8: 328.43}),
        Published("70B", str(MODELS / "llama-3-70b"), 32_000, {2: 21.32, 4: 38.01, 8: 62.5}),
    )
    return Crossover(tuple(pairs), published)
