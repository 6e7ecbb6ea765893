"""Generate text with non-SI, SI, DSI or a policy of your own, and write down what was measured.

  python launch/generate.py --config=configs/demo.py --algorithm=all --prompt='def main():' --out=out/mine
  python launch/generate.py --config=configs/demo.py --backend=paced --target_ms=20.6 --drafter_ms=6.8
  python launch/generate.py --config=configs/demo.py --backend=ray --sp_degree=3
  python launch/generate.py --config=configs/smollm2.py --prompt='What is the capital of France?'
  python launch/generate.py --config=configs/demo.py --algorithm=my_policy.py,dsi
  python launch/generate.py --config=configs/demo.py --prompts=prompts.txt --concurrency=4 --out=out/many

`--inject=target_2:crash@40` makes a server fail on purpose; the tokens stay the same (docs/faults.md).
SIGINT and SIGTERM end a run within one forward, and what there is of it is written.

`--out` receives report.json, timeline.html, timeline.png and trace.json. With `--prompts`, a file with one prompt per
line, it receives results.jsonl, a line for each result as it is complete; the same command goes on where an earlier
one ended.
Every field of the config can be set by --set=field=value, such as --set=mesh.target_tp=2.
"""

from collections.abc import Sequence
from pathlib import Path

import _batch
import _cli
import _interrupt
import _show
import _summary
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax import prompts as prompts_lib
from dsi_jax.base import RequestError, StoppedError
from dsi_jax.control.stop import Stop
from dsi_jax.policies import POLICIES
from dsi_jax.profiles.profile import Profile, read_profile

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_ALGORITHM = flags.DEFINE_list(
    "algorithm",
    None,
    f"Any of {', '.join(POLICIES)}; all of them: all; or a file with a policy of yours. Default: the card's.",
)
_PROMPT = flags.DEFINE_multi_string("prompt", None, "Prompt; may be given several times. Default: the card's.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "A file whose whole text is the prompt.")
_PROMPTS = flags.DEFINE_string("prompts", None, "A file with a prompt per line: text, or a JSON object.")
_CONCURRENCY = flags.DEFINE_integer("concurrency", None, "With --prompts: how many are under way at once.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "Tokens to generate.")
_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 is greedy.")
_TOP_K = flags.DEFINE_integer("top_k", None, "0 keeps every token.")
_TOP_P = flags.DEFINE_float("top_p", None, "1 keeps every token.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of the sampling noise.")
_LOOKAHEAD = flags.DEFINE_string("lookahead", None, "Draft tokens per verification, or auto.")
_SP = flags.DEFINE_integer("sp_degree", None, "Number of target servers.")
_VERIFICATION = flags.DEFINE_string("verification", None, "coupled (lossless to the bit) or rejection (p/q rule).")
_BACKEND = flags.DEFINE_enum(
    "backend",
    "device",
    ["device", "paced", "ray"],
    "paced: forwards take at least the set times; ray: servers are actors of a cluster.",
)
_ADDRESS = flags.DEFINE_string("address", None, "With --backend=ray: the cluster to join, auto or HOST:PORT.")
_TARGET_MS = flags.DEFINE_float("target_ms", None, "Paced: milliseconds of a target forward; default 20.6.")
_DRAFTER_MS = flags.DEFINE_float("drafter_ms", None, "Paced: milliseconds of a draft token; default 6.8.")
_JITTER = flags.DEFINE_float("jitter", None, "Paced: latencies vary by this fraction, up and down; default 0.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", None, "Use a synthetic drafter that is right at this rate.")
_TIMEOUT_S = flags.DEFINE_float("timeout_s", None, "Seconds that a prompt may take; then it ends with what it has.")
_DEADLINE_S = flags.DEFINE_float("deadline_s", None, "Seconds after which a server counts as hung; default by latency.")
_INJECT = flags.DEFINE_list(
    "inject",
    [],
    "Faults made on purpose: SERVER:KIND@TOKEN[..RETURN], KIND crash, hang, nan, slow, as drafter:crash@9.",
)
_REPEATS = flags.DEFINE_integer("repeats", None, "Runs of each algorithm; default 3 if several are compared, else 1.")
_PROFILE = flags.DEFINE_string(
    "profile", None, "profile.json of launch/measure.py: predicts what the devices give under non-SI and SI."
)
_OUT = flags.DEFINE_string("out", None, "Directory for report.json, the timelines, trace.json.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    config = config_lib.load(_CONFIG.value, overrides(), dsi_jax.Config)
    policies = _show.read_policies([config.algorithm] if _ALGORITHM.value is None else _ALGORITHM.value)
    prompts = read_prompts(config)
    latencies = read_latencies()
    profile = read_profile(_PROFILE.value) if _PROFILE.value else None
    if profile and latencies:
        raise ValueError("--profile has no effect with --backend=paced, where floors are set; leave one of them out")
    if _REPEATS.value is not None and _REPEATS.value < 1:
        raise ValueError(f"--repeats={_REPEATS.value} must be at least 1")
    out = _show.check_out(_OUT.value) if _OUT.value else None
    _cli.use_devices(config)
    if _PROMPTS.value:
        _batch.run(config, prompts, policies, latencies, out)
        return
    dsi_jax.check_requests(config, prompts)
    with dsi_jax.Engine(config, progress=True) as engine:
        run(engine, prompts, policies, latencies, profile, out)


def run(
    engine: dsi_jax.Engine,
    prompts: Sequence[str],
    policies: Sequence[dsi_jax.Policy],
    latencies: dsi_jax.Latencies | None,
    profile: Profile | None,
    out: Path | None,
) -> None:
    """Run everything and write it down; also what there is when a signal, a timeout or lost servers end it early."""
    predict = _summary.predictor(profile, engine.config) if profile else None
    halt = Stop()
    with _interrupt.asking(halt.request):
        try:
            results, error = _show.run_policies(engine, prompts, policies, latencies, _REPEATS.value, halt), None
        except RequestError as found:
            results, error = found.results, found
        if not error:
            print(_summary.in_words(engine, [result.run for result in results], predict))
        elif results:
            print(f"ended early, with {len(results[-1].tokens)} tokens", flush=True)
        if out and results:
            _show.save(out, engine, results, predict, interrupted=isinstance(error, StoppedError))
    _interrupt.end_if_asked()
    if error:
        raise error


def read_prompts(config: dsi_jax.Config) -> Sequence[str] | Sequence[prompts_lib.Line]:
    """Take the prompts from the flags or else from the card, before any model is loaded."""
    given = {"prompt": _PROMPT.value, "prompt_file": _PROMPT_FILE.value, "prompts": _PROMPTS.value}
    names = [f"--{name}" for name, value in given.items() if value]
    if len(names) > 1:
        raise ValueError(f"both {names[0]} and {names[1]} are given; choose one of them")
    if _PROMPTS.value:
        return read_batch()
    if _CONCURRENCY.value is not None:
        raise ValueError("--concurrency has no effect without --prompts=FILE; add that, or leave it out")
    prompts = [prompts_lib.read_text(_PROMPT_FILE.value)] if _PROMPT_FILE.value else _PROMPT.value or config.prompts
    if not all(prompts) or not prompts:
        raise ValueError("the prompt is empty; give at least one character, in --prompt or --prompt_file")
    return prompts


def read_batch() -> list[prompts_lib.Line]:
    """Read the file of --prompts, and refuse flags that do not go with it."""
    if not _OUT.value:
        raise ValueError("--prompts needs --out=DIR, where results.jsonl goes")
    if _PROFILE.value:
        raise ValueError("--profile has no effect with --prompts; leave it out")
    if _REPEATS.value is not None:
        raise ValueError("--repeats has no effect with --prompts, whose prompts are run once each; leave it out")
    return prompts_lib.read_lines(_PROMPTS.value)


def read_latencies() -> dsi_jax.Latencies | None:
    """The floors of a paced run; None for an unpaced one, which has no use for them."""
    given = {"target_ms": _TARGET_MS.value, "drafter_ms": _DRAFTER_MS.value, "jitter": _JITTER.value}
    given = {name: value for name, value in given.items() if value is not None}
    if _BACKEND.value == "paced" or (given and _BACKEND.value == "ray"):
        return _cli.latencies(**{"target_ms": 20.6, "drafter_ms": 6.8, "jitter": 0.0} | given)
    if given:
        raise ValueError(
            f"--{next(iter(given))} has no effect without --backend=paced or ray; add that, or leave it out"
        )
    return None


def overrides() -> list[str]:
    """Turn the flags that were given into config overrides; --set comes last and wins."""
    if _ADDRESS.value is not None and _BACKEND.value != "ray":
        raise ValueError(f"--address={_ADDRESS.value} has no effect without --backend=ray; add that, or leave it out")
    given = {
        "max_new_tokens": _TOKENS.value,
        "concurrency": _CONCURRENCY.value,
        "sampling.temperature": _TEMPERATURE.value,
        "sampling.top_k": _TOP_K.value,
        "sampling.top_p": _TOP_P.value,
        "sampling.seed": _SEED.value,
        "lookahead": _LOOKAHEAD.value,
        "backend": "ray" if _BACKEND.value == "ray" else None,
        "cluster.address": _ADDRESS.value,
        "mesh.sp_degree": _SP.value,
        "verification": _VERIFICATION.value,
        "drafter.kind": None if _ACCEPTANCE.value is None else "synthetic",
        "drafter.acceptance": _ACCEPTANCE.value,
        "timeout_s": _TIMEOUT_S.value,
        "deadline_s": _DEADLINE_S.value,
        "inject": tuple(_INJECT.value) or None,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None] + _SET.value


if __name__ == "__main__":
    _cli.run(main)
