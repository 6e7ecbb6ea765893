"""Making the paper's artifacts: each is computed, written to a directory, and told in words."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dsi_jax.config import Config
from dsi_jax.files import replaced, write_json, write_text
from dsi_jax.paper import algorithm1_example, crossover, example, heatmap, protocols, scale, table
from dsi_jax.paper.figures.crossover import crossover_png
from dsi_jax.paper.figures.example import example_png
from dsi_jax.paper.figures.heatmap import heatmap_png
from dsi_jax.paper.figures.scale import scale_png
from dsi_jax.paper.figures.table import table_png
from dsi_jax.paper.markdown import markdown
from dsi_jax.paper.models import SyntheticModels
from dsi_jax.paper.protocols.crossover import Crossover, Found, find_crossover, published_beside_roofline
from dsi_jax.paper.protocols.scale import Scale, Scaled, find_scale
from dsi_jax.paper.rows import Result, Row
from dsi_jax.paper.threads import to_trace
from dsi_jax.profiles.chips import Chips
from dsi_jax.telemetry import plots
from dsi_jax.telemetry.timeline_html import Panel, write_timeline_html

MOST_TOKENS, MOST_LANES = 100, 60  # of Algorithm 1, so that its picture can be read


@dataclasses.dataclass(frozen=True)
class Options:
    """What the artifacts are made of; the names are those of the flags."""

    rows: tuple[Row, ...]  # table
    repeats: int = 2000  # table: simulated runs per row
    paced_runs: int = 5  # table: paced runs per row and algorithm; 0: none
    paced: Config = Config()  # table: target and mesh of paced runs
    step: float = 0.01  # heatmap: of both axes
    models: SyntheticModels = algorithm1_example.MODELS  # algorithm1
    algorithm1_tokens: int = algorithm1_example.NEW_TOKENS
    crossover: Crossover | None = None
    scale: Scale | None = None
    chips: Chips | None = None  # crossover, scale: the table of chips
    pair: Config = Config()  # latency, acceptance
    prompts: Sequence[str] | None = None  # latency, acceptance; None: built-in ones
    prompt_count: int = 50  # of the built-in ones
    latency_tokens: int = 20  # per prompt
    acceptance_tokens: int = 256

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("prompt_count", 1), ("latency_tokens", 2), ("acceptance_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}={getattr(self, name)} must be at least {least}")
        if not 1 <= self.algorithm1_tokens <= MOST_TOKENS:
            raise ValueError(f"--algorithm1_tokens={self.algorithm1_tokens} must lie in 1 .. {MOST_TOKENS}")
        heatmap.axes(self.step)


def make_table(out: Path, options: Options) -> str:
    """The main table, in virtual time and paced: table.json, table.md, table.png."""
    results: list[Result] = []
    for result in tqdm(table.results(options.rows, options.repeats), "rows, virtual time", len(options.rows)):
        results.append(result)
        _write_table(out, results, options)  # what is done is not lost with the rest
    if options.paced_runs:
        prompts = protocols.held_out_prompts(options.paced_runs)
        for index, result in enumerate(tqdm(tuple(results), "rows, paced")):
            paced = protocols.measure_paced(options.paced, result, prompts)
            results[index] = dataclasses.replace(result, paced=paced)
            _write_table(out, results, options)
    return f"{markdown(results)}\nwrote {out}/table.json, table.md, table.png"


def _write_table(out: Path, results: Sequence[Result], options: Options) -> None:
    inputs = {"repeats": options.repeats, "paced_runs": options.paced_runs}
    rows = [dataclasses.asdict(result) for result in results]
    write_json(out / "table.json", {"rows": rows, "protocol": table.PROTOCOL, **inputs}, indent=1)
    write_text(out / "table.md", markdown(results))
    table_png(out / "table.png", results)


def make_heatmaps(out: Path, options: Options) -> str:
    """Four heatmaps: heatmap.json, and for each a picture and its data."""
    made = {
        "closed_form": heatmap.by_closed_forms(options.step),
        "simulation": heatmap.by_simulation(options.step),
        "closed_form_k5": heatmap.by_closed_forms(options.step, heatmap.FIXED),
        "simulation_k5": heatmap.by_simulation(options.step, heatmap.FIXED),
    }
    summaries = {name: heatmap.summary(one) for name, one in made.items()}
    words = []
    for name, one in made.items():
        panels = one.panels(), one.drafters, one.acceptances
        heatmap_png(out / f"heatmap_{name}.png", *panels, heatmap.TITLES[name], heatmap.NOTES[name])
        with replaced(out / f"heatmap_{name}.npz") as file:
            np.savez_compressed(file, **dataclasses.asdict(one))
        told = heatmap.in_words(summaries[name], claimed=not name.endswith("k5"))
        words.append(f"{heatmap.TITLES[name]}\n{told}")
    found = {name: summary.as_json() for name, summary in summaries.items()}
    write_json(out / "heatmap.json", found | {"step": options.step}, indent=1)
    return "\n".join([*words, f"wrote {out}/heatmap.json and, for each, a picture and its data (.npz)"])


def make_timeline(out: Path, options: Options) -> str:
    """The paper's timeline example: timeline.json and three pictures, two of them for a browser too."""
    del options
    cases = example.cases()
    example_png(out / "example.png", cases)
    for case in cases:
        name = f"example_{case.name.replace(' ', '_')}"
        plots.timeline_png(out / f"{name}.png", case.traces, window_ms=24)
        write_timeline_html(out / f"{name}.html", [Panel(trace) for trace in case.traces])
    write_json(out / "timeline.json", {"cases": [case.as_json() for case in cases]}, indent=1)
    written = (
        f"wrote {out}/timeline.json, example.png, example_worst_case.png, example_best_case.png, and both cases .html"
    )
    return "\n".join([*(case.in_words() for case in cases), written])


def make_algorithm1(out: Path, options: Options) -> str:
    """One run of the general Algorithm 1: algorithm1.json and a picture of its threads."""
    one = algorithm1_example.example(options.models, options.algorithm1_tokens)
    write_json(out / "algorithm1.json", one.as_json(), indent=1)
    trace = to_trace(one.outcome)
    if len(trace.servers) > MOST_LANES:
        return f"{one.in_words()}\nwrote {out}/algorithm1.json; {len(trace.servers)} lanes are too many for a picture"
    plots.timeline_png(out / "algorithm1.png", [trace], window_ms=1e3 * trace.wall_s)
    write_timeline_html(out / "algorithm1.html", [Panel(trace)])
    return f"{one.in_words()}\nwrote {out}/algorithm1.json, algorithm1.png, algorithm1.html"


def make_crossover(out: Path, options: Options) -> str:
    """Best layouts over chips and links: crossover.json, crossover.md, crossover.png."""
    card = options.crossover
    if card is None or options.chips is None:
        raise ValueError("the crossover needs a card of it and a table of chips; give both in Options")
    chip = options.chips.find(card.chip)
    published = published_beside_roofline(card, chip)
    found: list[Found] = []
    for one in find_crossover(card, chip):
        found.append(one)
        write_json(out / "crossover.json", crossover.as_json(card, found, published), indent=1)  # what is done is kept
    facts = (
        f"Predicted by the roofline of {chip.kind}, not run: {card.host_us:g} us of host a forward, verify width "
        f"{card.verify_width}, {card.new_tokens} tokens, SP up to {card.most_sp}"
    )
    write_text(out / "crossover.md", f"{facts}.\n\n{crossover.markdown(found, published)}\n")
    crossover_png(out / "crossover.png", found, published, facts)
    return f"{crossover.gains(found)}\nwrote {out}/crossover.json, crossover.md, crossover.png"


def make_scale(out: Path, options: Options) -> str:
    """DSI over many hosts and slow links: scale.json, scale.md, scale.png."""
    card = options.scale
    if card is None or options.chips is None:
        raise ValueError("scale needs a card of it and a table of chips; give both in Options")
    found: list[Scaled] = []
    for one in find_scale(card, options.chips.find(card.predicted.chip)):
        found.append(one)
        write_json(out / "scale.json", scale.as_json(card, found), indent=1)  # what is done is kept
    facts = f"Virtual time: {card.new_tokens} tokens, {card.runs} runs, each algorithm at its best lookahead"
    write_text(out / "scale.md", f"{facts}.\n\n{scale.markdown(found)}\n")
    scale_png(out / "scale.png", found, facts)
    return f"{scale.largest_links(found)}\nwrote {out}/scale.json, scale.md, scale.png"


def make_latency(out: Path, options: Options) -> str:
    """Latencies of both models of a pair, measured by the paper's protocol: latency.json."""
    prompts = _prompts(options)
    found = protocols.measure_latency(options.pair, prompts, options.latency_tokens)
    write_json(out / "latency.json", found, indent=1)
    return (
        f"target {found['target_ms']:.3f} ms, drafter {found['drafter_ms']:.3f} ms per token (median TPOT)\n"
        f"wrote {out}/latency.json, over {len(prompts)} prompts"
    )


def make_acceptance(out: Path, options: Options) -> str:
    """Acceptance rate of a pair, measured by the paper's protocol: acceptance.json."""
    prompts = _prompts(options)
    found = protocols.measure_acceptance(options.pair, prompts, options.acceptance_tokens)
    write_json(out / "acceptance.json", found, indent=1)
    low, high = found["ci"]
    return (
        f"acceptance rate {found['acceptance']:.3f} (95 % interval {low:.3f} - {high:.3f})\n"
        f"wrote {out}/acceptance.json, over {len(prompts)} prompts"
    )


def _prompts(options: Options) -> Sequence[str]:
    return options.prompts or protocols.held_out_prompts(options.prompt_count)


MAKERS: dict[str, Callable[[Path, Options], str]] = {
    "table": make_table,
    "heatmap": make_heatmaps,
    "timeline": make_timeline,
    "algorithm1": make_algorithm1,
    "crossover": make_crossover,
    "scale": make_scale,
    "latency": make_latency,
    "acceptance": make_acceptance,
}
