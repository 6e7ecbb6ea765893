"""One run of the general Algorithm 1, told: what each verdict kept, how many threads came and went, and the time."""

import dataclasses
from typing import Any

from dsi_jax.paper.algorithm1 import Outcome, run
from dsi_jax.paper.models import SyntheticModels

PROMPT = (0,)
MODELS = SyntheticModels((6_000_000, 9_000_000, 20_000_000), (0.6, 0.8), seed=3)  # two drafters and a target
NEW_TOKENS = 10


@dataclasses.dataclass(frozen=True)
class Example:
    """The models, and what Algorithm 1 made of them."""

    models: SyntheticModels
    new_tokens: int
    outcome: Outcome

    @property
    def kept_ms(self) -> float:
        """What the time must be with fixed latencies: those of the models whose tokens were kept."""
        return sum(self.models.latencies_ns[verdict.kept - 1] for verdict in self.outcome.verdicts) / 1e6

    def as_json(self) -> dict[str, Any]:
        """The value of `algorithm1.json`."""
        outcome = self.outcome
        return {
            "latencies_ms": [latency / 1e6 for latency in self.models.latencies_ns],
            "agreements": self.models.agreements,
            "seed": self.models.seed,
            "new_tokens": self.new_tokens,
            "finished_ms": outcome.wall_ns / 1e6,
            "kept_ms": self.kept_ms,
            "non_si_ms": self.new_tokens * self.models.latencies_ns[-1] / 1e6,
            "threads": {
                "started": outcome.started_threads,
                "terminated": outcome.terminated_threads,
                "most_at_once": outcome.peak_threads,
            },
            "verdicts": [
                {"time_ms": verdict.time_ns / 1e6, "token": verdict.token, "kept": verdict.kept}
                for verdict in outcome.verdicts
            ],
            "spans": [
                {
                    "thread": span.label,
                    "start_ms": span.start_ns / 1e6,
                    "end_ms": span.end_ns / 1e6,
                    "stale": span.stale,
                }
                for span in outcome.spans
            ],
        }

    def in_words(self) -> str:
        """Tell the run, a line per token."""
        facts, m = self.as_json(), self.models.count
        drafters = ", ".join(
            f"{latency:g} ms (agrees at rate {rate:g})"
            for latency, rate in zip(facts["latencies_ms"], facts["agreements"], strict=False)
        )
        lines = [
            f"Algorithm 1 with m = {m} models: drafters of {drafters}; target of {facts['latencies_ms'][-1]:g} ms",
            "  token   settled at   whose thread goes on",
        ]
        for number, verdict in enumerate(self.outcome.verdicts, start=1):
            kept = f"drafter {verdict.kept}" if verdict.kept < m else "target"
            lines.append(f"  {number:5} {verdict.time_ns / 1e6:9.1f} ms   {kept}")
        threads = facts["threads"]
        lines.append(
            f"finished at {facts['finished_ms']:g} ms, the latencies of those models together; "
            f"the target alone takes {facts['non_si_ms']:g} ms"
        )
        lines.append(
            f"threads: {threads['started']} started, {threads['terminated']} terminated before they had finished, "
            f"at most {threads['most_at_once']} at once"
        )
        return "\n".join(lines)


def example(models: SyntheticModels = MODELS, new_tokens: int = NEW_TOKENS) -> Example:
    """Run Algorithm 1 on synthetic models.

    Raises:
      ValueError: an impossible request, or too many threads.
    """
    return Example(models, new_tokens, run(models, PROMPT, new_tokens))
