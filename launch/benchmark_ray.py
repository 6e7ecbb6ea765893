"""Measure backend ray on this machine: its transport, paced runs, equality with plain decoding, and nodes that go.

  python launch/benchmark_ray.py --out=out/benchmark_ray
  python launch/benchmark_ray.py --parts=equal --runs=100
  python launch/benchmark_ray.py --parts=nodes --runs=20

transport: microseconds per message and per committed token, and the price of a distribution under the rejection rule.
paced: wall time over ideal, at the paper's latencies. equal: runs over random settings, each compared with plain
decoding in this process. nodes: a cluster of three nodes on this machine, one of which is removed during every run.
docs/cluster.md has what was measured.
"""

import json
import platform
import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _cli
from absl import flags

from dsi_jax import Config, Engine, Latencies, MeshConfig, Sampling, Verification
from dsi_jax.cluster import ClusterConfig
from dsi_jax.placement.host import use_cpu_devices

PARTS = ("transport", "paced", "equal", "nodes")
_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Any of {', '.join(PARTS)}.")
_RUNS = flags.DEFINE_integer("runs", None, "Runs of equal (default 100) and of nodes (default 20).")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "Tokens of a run.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the random settings.")
_PIN = flags.DEFINE_bool("pin", True, "Keep each server to cores of its own.")
_OUT = flags.DEFINE_string("out", "out/benchmark_ray", "Directory for ray.json.")
PROMPTS = ("def main():\n", "import os\n", "class Stack:\n    def push(self, x):\n", "x = [0, 0, 0, 0")


def main() -> None:
    parts = {"transport": transport, "paced": paced, "equal": equal, "nodes": nodes}
    if unknown := [part for part in _PARTS.value if part not in parts]:
        raise ValueError(f"--parts={unknown[0]} must be any of {', '.join(PARTS)}")
    use_cpu_devices(8)
    found: dict[str, Any] = {"machine": platform.platform()}
    for part in _PARTS.value:
        found[part] = parts[part]()
        print(f"{part}: {json.dumps(found[part])}", flush=True)
        out = Path(_OUT.value)
        out.mkdir(parents=True, exist_ok=True)
        (out / "ray.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def config(sp: int = 3, tp: int = 1, rule: str = "coupled", **more: Any) -> Config:
    mesh = MeshConfig(sp_degree=sp, target_tp=tp)
    cluster = more.pop("cluster", ClusterConfig(pin=_PIN.value))
    return Config(mesh=mesh, verification=Verification(rule), cluster=cluster, **more)


# ------------------------------------------------------------------------------------------------------ what it costs


def transport() -> dict[str, Any]:
    """Round trips of an idle server's socket; messages and bytes of DSI, per committed token; and distributions."""
    found: dict[str, Any] = {}
    with Engine(config(rule="rejection", backend="ray")) as engine:
        backend = engine._backend
        trips = [trip for _ in range(300) for trip in _round_trips(backend)]
        found["round_trip_us"] = _spread(trips)
        found["clock_error_us"] = round(max(clock.error_s for clock in backend.clocks.values()) * 1e6, 1)
        sampling = Sampling(temperature=0.7, seed=1)
        before = backend.sent, backend.received, backend.bytes
        results = [
            engine.generate(prompt, algorithm="dsi", max_new_tokens=_TOKENS.value, sampling=sampling)[0]
            for prompt in PROMPTS
        ]
        tokens = sum(len(result.tokens) for result in results)
        sent, received, size = (
            now - then for now, then in zip((backend.sent, backend.received, backend.bytes), before, strict=True)
        )
        host_s = sum(result.trace.host_s for result in results)
        found |= {
            "messages_per_token": round((sent + received) / tokens, 2),
            "bytes_per_token": round(size / tokens),
            "controller_us_per_message": round(host_s / (sent + received) * 1e6, 1),
            "controller_us_per_token": round(host_s / tokens * 1e6, 1),
        }
        rows, size, seconds = map(sum, zip(*(backend.fetched(f"target_{i}") for i in range(3)), strict=True))
        found["distributions"] = {
            "fetched": rows,
            "bytes_each": size // max(rows, 1),
            "us_each": round(seconds / max(rows, 1) * 1e6, 1),
        }
    return found


def _round_trips(backend: Any) -> Iterator[float]:
    for clock in backend.clocks.values():
        clock.forget()
    backend.compare_clocks(1)
    yield from (clock.round_trip_s * 1e6 for clock in backend.clocks.values())


def _spread(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20)
    return {"median": round(statistics.median(values), 1), "p5": round(cuts[0], 1), "p95": round(cuts[-1], 1)}


def paced() -> dict[str, Any]:
    """Wall over ideal at 20.6 and 6.8 ms, SP 3, on Ray and by threads of this process."""
    found = {}
    for backend in ("ray", "device"):
        with Engine(config(backend=backend)) as engine:
            latencies = Latencies(20.6e-3, 6.8e-3)
            ratios, walls = [], []
            for prompt in PROMPTS * 3:
                run = engine.generate(prompt, algorithm="dsi", max_new_tokens=_TOKENS.value, latencies=latencies)[0].run
                ratios.append(run.wall_s / run.ideal_s)
                walls.append(run.wall_s / run.new_tokens * 1e3)
            found[backend] = {
                "wall_over_ideal": round(statistics.median(ratios), 4),
                "least": round(min(ratios), 4),
                "most": round(max(ratios), 4),
                "ms_per_token": round(statistics.median(walls), 2),
            }
    return found


# ---------------------------------------------------------------------------------------------------- what it must keep


def equal() -> dict[str, Any]:
    """Random settings under the coupled rule: every token equals that of plain decoding in this process."""
    runs, draw = _RUNS.value or 100, random.Random(_SEED.value)
    same, done = 0, 0
    layouts = [(sp, tp) for tp in (1, 2) for sp in (1, 2, 3, 4)]
    for number, (sp, tp) in enumerate(layouts):
        share = runs // len(layouts) + (number < runs % len(layouts))
        cases = [
            {
                "prompts": draw.choice(PROMPTS),
                "max_new_tokens": draw.randint(8, 40),
                "sampling": Sampling(draw.choice((0.0, 0.5, 1.0)), seed=draw.randrange(1000)),
            }
            for _ in range(share)
        ]
        with Engine(config(1, tp)) as engine:
            plain = [engine.generate(**case, algorithm="non_si")[0].tokens for case in cases]
        with Engine(config(sp, tp, backend="ray")) as engine:
            for case, tokens in zip(cases, plain, strict=True):
                how = {"algorithm": draw.choice(("dsi", "si", "non_si")), "lookahead": draw.choice(("auto", 1, 3, 5))}
                same += engine.generate(**case, **how)[0].tokens == tokens
                done += 1
    return {"runs": done, "same": same}


def nodes() -> dict[str, Any]:
    """A node that holds target servers goes during every run; a new one comes after it."""
    import ray
    from ray.cluster_utils import Cluster

    runs, tokens = _RUNS.value or 20, 48
    with Engine(config(1)) as engine:
        plain = [engine.generate(prompt, algorithm="non_si", max_new_tokens=tokens)[0].tokens for prompt in PROMPTS]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    others = [cluster.add_node(num_cpus=1) for _ in range(2)]
    right, incidents = 0, 0
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with Engine(config(3, backend="ray", cluster=ClusterConfig(restarts=100))) as engine:
            for number in range(runs):
                thread = threading.Timer(0.3, cluster.remove_node, (others.pop(0),))
                thread.start()
                result = engine.generate(
                    PROMPTS[number % 4], algorithm="dsi", max_new_tokens=tokens, latencies=Latencies(60e-3, 20e-3)
                )[0]
                thread.join()
                right += result.tokens == plain[number % 4]
                incidents += any(incident.kind != "back" for incident in result.trace.incidents)
                others.append(cluster.add_node(num_cpus=1))
                _wait_for_all(engine._backend)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {"runs": runs, "right": right, "with_a_loss": incidents}


def _wait_for_all(backend: Any, limit_s: float = 120.0) -> None:
    until = time.monotonic() + limit_s
    while backend.missing and time.monotonic() < until:
        backend.drain()
        time.sleep(0.2)


if __name__ == "__main__":
    _cli.run(main)
