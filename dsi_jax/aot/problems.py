"""What must not be in a compiled program of ours."""

from dsi_jax.aot.facts import ProgramFacts

MOST = 1.15  # traffic of a forward over a few tokens, over the weights and cache that it has to read
MOST_PREFILL = 1.5  # of a run of many tokens, whose activations are large
SLACK = 2_000_000  # bytes of traffic that are not looked at: rows of logits, and what small buffers are padded to


def problems(facts: ProgramFacts) -> list[str]:
    """Say what is wrong with a program, each in a few words; nothing: it is as it should be."""
    found = []
    if facts.program and facts.traffic > limit(facts):
        found.append(f"traffic {facts.ratio:.2f}")
    if facts.program and (facts.unaliased or facts.aliased < facts.cache):
        found.append("cache copied")
    if facts.gathered:
        found.append(f"weights gathered ({len(facts.gathered)})")
    if facts.host:
        found.append("talks to the host")
    return found


def limit(facts: ProgramFacts) -> float:
    """Bytes of traffic that are allowed."""
    most = MOST_PREFILL if facts.program == "prefill" else MOST
    return most * facts.needed + SLACK
