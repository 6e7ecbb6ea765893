"""Try one engine for long: random faults on real workers, or many requests.

  python launch/soak.py --faults=200 --out=soak.json
  python launch/soak.py --requests=2000

With `--faults`, runs of every policy, unpaced and paced, meet crashes, hangs, NaN and slowness of every server. Each is
compared with non-SI. The exit code is 1 if a token was wrong or a run hung. With `--requests`, many short requests
run one after the other, and the memory of the process after the first 200 is compared with that at the end: it is to
stay within 2 %. An interrupt keeps the counts.
"""

import statistics
import sys
from pathlib import Path

import _cli
import _soak
from absl import flags
from tqdm import tqdm

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax import files

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_SP = flags.DEFINE_integer("sp_degree", 3, "Number of target servers.", lower_bound=1)
_FAULTS = flags.DEFINE_integer("faults", None, "Faults to be made on purpose.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", None, "Requests to be run.", lower_bound=1)
_DEADLINE_S = flags.DEFINE_float("deadline_s", 0.5, "Seconds after which a server counts as hung.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the trial.")
_OUT = flags.DEFINE_string("out", None, "Where the counts are written, as JSON.")

MOST = 0.02  # by which memory may grow


def main() -> None:
    if (_FAULTS.value is None) == (_REQUESTS.value is None):
        raise ValueError("give one of --faults and --requests")
    config = config_lib.load(_CONFIG.value, [f"mesh.sp_degree={_SP.value}"], dsi_jax.Config)
    config = _soak.config_of(config, _DEADLINE_S.value)
    _cli.use_devices(config)
    with dsi_jax.Engine(config, progress=True) as engine:
        good = faults(engine) if _FAULTS.value else requests(engine)
    sys.exit(0 if good else 1)


def faults(engine: dsi_jax.Engine) -> bool:
    """Make faults, and say what came of them; whether all was well."""
    trial = _soak.Trial()
    try:
        with tqdm(total=_FAULTS.value, unit="fault") as bar:
            _soak.try_faults(engine, trial, _FAULTS.value, _SEED.value, bar.update)
    finally:  # an interrupt too
        for words in trial.wrong + trial.hung:
            print(f"{'WRONG' if words in trial.wrong else 'HUNG'}: {words}")
        print(trial.in_words(), flush=True)
        _write(vars(trial) | {"seed": _SEED.value})
    return not trial.wrong and not trial.hung


def requests(engine: dsi_jax.Engine) -> bool:
    """Run requests, and say how memory went; whether it stayed."""
    found: list[int] = []
    try:
        for size in tqdm(
            _soak.try_requests(engine, _REQUESTS.value, _SEED.value), total=_REQUESTS.value, unit="request"
        ):
            found.append(size)
    finally:
        growth = None
        if len(found) > _soak.SETTLED + 20:
            before = statistics.median(found[_soak.SETTLED - 10 : _soak.SETTLED + 10])
            after = statistics.median(found[-20:])
            growth = after / before - 1
            sizes = f"{before / 1e6:.1f} MB after {_soak.SETTLED}, {after / 1e6:.1f} MB at the end, {growth:+.2%}"
            print(f"{len(found)} requests: {sizes}", flush=True)
        else:
            print(f"{len(found)} requests, too few to tell how memory goes", flush=True)
        _write({"requests": len(found), "growth": growth, "bytes": found[:: max(1, len(found) // 200)]})
    return growth is None or growth <= MOST


def _write(facts: dict) -> None:
    if _OUT.value:
        files.write_json(Path(_OUT.value), facts, indent=2)
        print(f"wrote {_OUT.value}")


if __name__ == "__main__":
    _cli.run(main)
