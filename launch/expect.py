"""Say what a card should reach on a chip, with the layout that it has: bytes, latencies and tokens/s. Runs nothing.

  python launch/expect.py --config=configs/llama3_8b.py:v5e-8 --chip=v5e --acceptance=0.8 \\
      --target=configs/models/llama-3-8b --drafter=configs/models/llama-3.2-1b

Latencies are reckoned from the shapes of the models and the table of chips by a roofline, which takes a forward to be
limited by memory, arithmetic and links alone. --host_us comes on top of each, unless --profile says what was measured.
The three algorithms are then played in virtual time. Each has its own t and c: where servers share cores, they slow
each other down. launch/plan.py says which layout would be better.
"""

import _cli
import _latencies
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.checkpoints.open import ModelSource
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.layouts import as_given
from dsi_jax.layouts.fits import room_of, size
from dsi_jax.layouts.predict import Prediction
from dsi_jax.layouts.shapes import Shape, shape_profile
from dsi_jax.layouts.words import layout_in_words
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.policies import NON_SI, POLICIES
from dsi_jax.profiles.chips import Chips
from dsi_jax.profiles.profile import Profile, read_profile

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_CHIP = flags.DEFINE_string("chip", None, "A chip of the table, such as v5e.")
_CHIPS = flags.DEFINE_string("chips", "configs/chips.py", "The table of chips.")
_PROFILE = flags.DEFINE_string("profile", None, "Instead of --chip: profile.json of measure.py or compile_for.py.")
_TARGET = flags.DEFINE_string("target", None, "Where the target's shapes are, if not at the card's path.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Where the drafter's are.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", 0.8, "Rate at which drafts are right, independently.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 64, "Tokens of a prompt.", lower_bound=1)
_HOST_US = flags.DEFINE_float("host_us", _latencies.HOST_US, _latencies.HOST_HELP)
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")

SOURCES = {
    "measured": "measured there",
    "compiled": "by the roofline of compiled programs",
    "roofline": "by the roofline of published numbers",
}


def main() -> None:
    use_cpu_devices(_cli.CPU_DEVICES, one_core_each=False)  # as launch/measure.py has, to be compared
    config = config_lib.load(_CONFIG.value, overrides(), dsi_jax.Config)
    profile = read(config)
    _latencies.check_length(profile, config, _PROMPT.value, config.max_new_tokens, "target.max_length")
    needed = as_given.check_fit(config, profile)
    found = as_given.predict_config(config, profile, _ACCEPTANCE.value, _PROMPT.value)
    last = found[-1]
    print(
        f"{_CONFIG.value} on {profile.chip}: {layout_in_words(last.layout)}, {last.chips} chips\n"
        f"latencies: {SOURCES[profile.source]}, with {_latencies.host_words(profile)}; nothing was run\n"
        f"bytes a chip: {', '.join(f'{role} {size(count)}' for role, count in needed.items())}"
        f"{f'; {size(room_of(profile))} of {size(profile.capacity)} are there' if profile.capacity else ''}\n"
        f"acceptance {_ACCEPTANCE.value:g}, {_PROMPT.value} + {config.max_new_tokens} tokens; t and c, "
        "of a target forward and of a draft token, are those of each algorithm"
    )
    for one in found:
        print(row(one, found[0]))


def overrides() -> list[str]:
    """Turn the flags that were given into config overrides; --set comes last and wins."""
    given = {"target.path": _TARGET.value, "drafter.model.path": _DRAFTER.value}
    return [f"{name}={value}" for name, value in given.items() if value is not None] + _SET.value


def read(config: dsi_jax.Config) -> Profile:
    """The profile that is given, with warnings where it speaks of other things; or one by the roofline."""
    if _CHIP.value and _PROFILE.value:
        raise ValueError("--chip and --profile are given; give one of them")
    if not (_CHIP.value or _PROFILE.value):
        raise ValueError("neither --chip nor --profile is given; give one of them, such as --chip=v5e")
    if not _PROFILE.value:
        return _latencies.with_host(reckon(config), _HOST_US)
    profile = _latencies.with_host(read_profile(_PROFILE.value), _HOST_US)
    _latencies.warn(profile, config, config.mesh.devices)
    return _latencies.at_width(profile, config)[0]


def reckon(config: dsi_jax.Config) -> Profile:
    """A profile by the roofline."""
    chip = config_lib.load(_CHIPS.value, kind=Chips).find(_CHIP.value)
    drafter = shape(config.drafter.model) if config.drafter.kind == "model" else None
    tps = sorted({config.mesh.target_tp, config.mesh.drafter_tp or 1})
    return shape_profile(shape(config.target), drafter, chip, tps)


def shape(source: ModelSource) -> Shape:
    return Shape(source.path, open_shapes(source).config, source.weights)


def row(one: Prediction, plain: Prediction) -> str:
    drafts = one.layout.algorithm != NON_SI.name
    lookahead = f", lookahead {one.lookahead_now}" if drafts else ""
    latencies = f"t = {1e3 * one.target_s:.2f} ms" + (f", c = {1e3 * one.drafter_s:.2f} ms" if drafts else "")
    chips = "1 chip" if one.chips == 1 else f"{one.chips} chips"
    return (
        f"{POLICIES[one.layout.algorithm].label:<7} {one.tokens_per_s:8.1f} tokens/s on {chips}, "
        f"{one.tokens_per_s / plain.tokens_per_s:.2f}x non-SI{lookahead}; {latencies}"
    )


if __name__ == "__main__":
    _cli.run(main)
