"""Measure what forwards of a pair take on the devices at hand; the planner reads the result.

  python launch/measure.py --config=configs/demo.py --out=out/profile
  python launch/measure.py --config=configs/demo.py --quick --target_tp=1,2 --drafter_tp=1
  python launch/measure.py --config=configs/two_directories.py --weights=random --out=out/layout

For every number of devices that divides the models and fits them: verifications by width and by length of the cache,
drafts by the tokens of a dispatch, prefill; besides, memory bandwidth, the host's share, a token's way to another
submesh, and how much slower servers are while others work. `--out` receives profile.json, after every part, and
profile.png. A profile of the same pair and devices that is there keeps the parts that are not measured now.
docs/measuring.md says how to read them.
"""

from collections.abc import Sequence
from pathlib import Path

import _cli
import _show
from absl import flags
from tqdm import tqdm

from dsi_jax import Config
from dsi_jax import config as config_lib
from dsi_jax.measuring.asked import WIDTHS, Asked
from dsi_jax.measuring.measure import PARTS, Choice, measure_profile
from dsi_jax.measuring.pair import WEIGHTS, open_measured
from dsi_jax.measuring.timing import Stopwatch
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.profiles.profile import Profile, ServerProfile, read_profile, write_profile
from dsi_jax.telemetry import profile_figure, profile_words

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card: the pair, and how it draws tokens.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")
_OUT = flags.DEFINE_string("out", "out/profile", "Directory for profile.json and profile.png.")
_WIDTHS = flags.DEFINE_list("widths", [str(width) for width in WIDTHS], "Tokens of a verification.")
_TARGET_TP = flags.DEFINE_list("target_tp", [], "Devices of a target server; default every number that is possible.")
_DRAFTER_TP = flags.DEFINE_list("drafter_tp", [], "Devices of the drafter; default every number that is possible.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_WEIGHTS = flags.DEFINE_enum("weights", "checkpoint", WEIGHTS, "random: noise of the models' shapes.")
_QUICK = flags.DEFINE_bool("quick", False, "5 repeats of every call instead of 15.")


def main() -> None:
    config = config_lib.load(_CONFIG.value, _SET.value, Config)
    widths, target_tps, drafter_tps = (_tokens(flag) for flag in (_WIDTHS, _TARGET_TP, _DRAFTER_TP))
    if not widths:
        raise ValueError("--widths is empty; give one number of tokens at least, such as --widths=1,8")
    choice = Choice(tuple(_PARTS.value), target_tps or None, drafter_tps or None)
    out = _show.check_out(_OUT.value)
    use_cpu_devices(_cli.CPU_DEVICES)
    pair = open_measured(config, _WEIGHTS.value, progress=True)
    path = out / "profile.json"
    before = read_before(path)
    shown, profile = list(before.servers) if before else [], None
    for profile in measure_profile(
        config,
        pair,
        asked=Asked(widths),
        choice=choice,
        stopwatch=Stopwatch(repeats=5 if _QUICK.value else 15),
        progress=True,
        facts={"weights": _WEIGHTS.value},
        before=before,
    ):
        write_profile(path, profile)
        _cli.say_if_interrupted(f"{path} holds what was measured, and says what is missing")
        shown += _show_servers(profile, shown)
    print("\n".join([*profile.environment["left_out"], *profile_words.rest_lines(profile)]))
    print(f"wrote {', '.join(['profile.json', *_draw(out, profile)])} to {out}/")


def read_before(path: Path) -> Profile | None:
    """The profile that is there, whose other parts are kept."""
    if not path.exists():
        return None
    try:
        return read_profile(path)
    except ValueError as error:
        reason = str(error).partition("; make one")[0]
        raise ValueError(f"{reason}; nothing can be added to it: take another --out, or delete it") from None


def _tokens(flag: flags.FlagHolder) -> tuple[int, ...]:
    found = _cli.numbers(flag.name, flag.value, int, "a number", 1)
    return tuple(dict.fromkeys(int(value) for value in found))


def _show_servers(profile: Profile, shown: Sequence[ServerProfile]) -> list[ServerProfile]:
    """Print the servers that are new, and return them."""
    new = [server for server in profile.servers if server not in shown]
    with tqdm.external_write_mode():  # the bars make room for the lines
        for server in new:
            print(profile_words.server_line(profile, server), flush=True)
    return new


def _draw(out: Path, profile: Profile) -> Sequence[str]:
    """Draw the profile; returns the names of what was written."""
    if not profile.servers:
        return []
    try:
        profile_figure.profile_png(out / "profile.png", profile)
    except ImportError:
        print("no profile.png: matplotlib is missing (pip install 'dsi-jax[plots]')")
        return []
    return ["profile.png"]


if __name__ == "__main__":
    _cli.run(main)
