"""Say how to split chips between drafter, target servers and tensor parallelism, and which algorithm to run on them.

  python launch/plan.py --config=configs/demo.py --profile=out/profile/profile.json --devices=8 --acceptance=0.8
  python launch/plan.py --topology=v5e:2x4 --target=configs/models/llama-3-8b --drafter=configs/models/llama-3.2-1b
  python launch/plan.py --chip=h100 --devices=64 --hosts=8 --link_us=50 --max_length=4096 \\
      --target=configs/models/llama-3-70b --drafter=configs/models/llama-3.2-1b --out=out/plan
  python launch/plan.py --chip=h100 --devices=8 --concurrency=4 --target=configs/models/qwen3-32b \\
      --drafter=configs/models/qwen3-0.6b

What forwards take comes from a profile, measured by launch/measure.py or compiled for by launch/compile_for.py.
Without one it is reckoned from the shapes of the models and the table of chips, by a roofline. Nothing is run.
`--out` receives plan.json, layouts.png and card.py, the chosen layout as launch/generate.py runs it.
docs/layouts.md says how to read the answer.
"""

import dataclasses

import _chips
import _cli
import _latencies
import _show
from absl import flags

import dsi_jax
from dsi_jax import config as config_lib
from dsi_jax.aot import topology
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.drafters import KINDS
from dsi_jax.files import write_json
from dsi_jax.layouts import card, records, search, words
from dsi_jax.layouts.rank import Verdict, recommend
from dsi_jax.layouts.shapes import Shape, shape_profile
from dsi_jax.placement.host import use_cpu_devices
from dsi_jax.profiles.chips import Chip, Chips
from dsi_jax.profiles.profile import Profile, read_profile
from dsi_jax.telemetry import layout_figure

_PROFILE = flags.DEFINE_string("profile", None, "profile.json of launch/measure.py or launch/compile_for.py.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Instead: a TPU slice such as v5e:2x4, by the roofline.")
_CHIP = flags.DEFINE_string("chip", None, "Instead: a chip of the table, such as h100, by the roofline.")
_CHIPS = flags.DEFINE_string("chips", None, "A table of chips of yours; default configs/chips.py.")
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Chips there are; default those of the topology or profile, or a host."
)
_HOSTS = flags.DEFINE_integer("hosts", None, "They are those of so many hosts; default the topology's, else 1.")
_LINK_US = flags.DEFINE_float("link_us", 0.0, "Microseconds of a message from one host to another.")
_HOST_US = flags.DEFINE_float("host_us", _latencies.HOST_US, _latencies.HOST_HELP)
_CONFIG = flags.DEFINE_string("config", None, "Experiment card with the pair of models.")
_TARGET = flags.DEFINE_string("target", None, "The target, as ModelSource.path has it; shapes are enough.")
_DRAFTER = flags.DEFINE_string("drafter", None, "The drafter, likewise; none: an n-gram on the host.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Tokens that a cache holds.")
_DTYPE = flags.DEFINE_string("dtype", None, "float32 or bfloat16; default bfloat16, a card's own.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", 0.8, "Rate at which drafts are right, independently.")
_TOKENS = flags.DEFINE_integer("new_tokens", 100, "Tokens of an answer.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 64, "Tokens of a prompt.")
_CONCURRENCY = flags.DEFINE_integer("concurrency", 1, "Sequences under way at once; then the total speed counts.")
_OBJECTIVE = flags.DEFINE_enum("objective", "latency", search.OBJECTIVES, "per_chip: tokens/s by the chips used.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the outcomes.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "Directory for plan.json, layouts.png and card.py.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    use_cpu_devices(_cli.CPU_DEVICES, one_core_each=False)  # as launch/measure.py has, to be compared
    pair, chip = read_pair(), read_chip()
    profile = read_profile(_PROFILE.value) if _PROFILE.value else reckon(pair, chip)
    if _PROFILE.value:
        check_servers(profile, pair)
        pair = pair if _CONFIG.value or _TARGET.value else profiled_pair(pair, profile)
    out = _show.check_out(_OUT.value) if _OUT.value else None
    devices, hosts = read_room(profile, chip)
    if _PROFILE.value:
        _latencies.warn(profile, pair, devices)
    if _LINK_US.value > 0 and hosts == 1:
        print(f"warning: --link_us={_LINK_US.value:g} is passed over: the chips are those of one host; say --hosts=N")
    profile, pair = _latencies.at_width(_latencies.with_host(profile, _HOST_US), pair)
    _latencies.check_length(profile, pair, _PROMPT.value, _TOKENS.value, "--max_length")
    answer = search.search(
        profile,
        devices,
        _ACCEPTANCE.value,
        hosts=hosts,
        link_s=_LINK_US.value / 1e6,
        new_tokens=_TOKENS.value,
        prompt_tokens=_PROMPT.value,
        concurrency=_CONCURRENCY.value,
        objective=_OBJECTIVE.value,
        seed=_SEED.value,
    )
    verdict = recommend(answer)
    print("\n".join([facts(profile, answer), words.table(answer), *words.misfits_in_words(answer)]))
    if hint := words.hint_of_width(answer, profile.verify_width):
        print(hint)
    print(words.sentence(verdict, answer))
    if out:
        save(out, profile, pair, answer, verdict)


# ------------------------------------------------------------------------------------------------------ what is asked


def overrides() -> list[str]:
    """Turn the flags that were given into config overrides; --set comes last and wins."""
    models = ("target", "drafter.model") if _DRAFTER.value or _CONFIG.value else ("target",)
    given = {"target.path": _TARGET.value, "drafter.model.path": _DRAFTER.value}
    given |= {f"{model}.max_length": _LENGTH.value for model in models}
    dtype = _DTYPE.value or (None if _CONFIG.value else "bfloat16")
    given |= {f"{model}.dtype": dtype for model in models}
    return [f"{name}={value}" for name, value in given.items() if value is not None] + _SET.value


def read_pair() -> dsi_jax.Config:
    """The models: of the card, or those of --target and --drafter."""
    if _CONFIG.value:
        return config_lib.load(_CONFIG.value, overrides(), dsi_jax.Config)
    kind = "model" if _DRAFTER.value or _PROFILE.value else "ngram"
    config = dsi_jax.Config(drafter=dsi_jax.DrafterConfig(kind=kind))
    for override in overrides():
        config = config_lib.override_field(config, override)
    return config


def profiled_pair(config: dsi_jax.Config, profile: Profile) -> dsi_jax.Config:
    """The models that a profile names, with what --max_length and --set say of them."""
    config = _named_pair(config, profile)
    models = ("target", "drafter.model") if config.drafter.kind == "model" else ("target",)
    lengths = [f"{model}.max_length={_LENGTH.value}" for model in models] if _LENGTH.value else []
    for override in lengths + _SET.value:
        config = config_lib.override_field(config, override)
    return config


def _named_pair(config: dsi_jax.Config, profile: Profile) -> dsi_jax.Config:
    dtype = _DTYPE.value or ("bfloat16" if profile.source == "compiled" else None)
    length, width = profile.max_length, profile.verify_width
    target = dsi_jax.ModelSource(profile.target, max_length=length, verify_width=width, dtype=dtype)
    if not profile.tps("drafter"):
        return dataclasses.replace(
            config, target=target, drafter=dsi_jax.DrafterConfig(kind=profile.drafter or "ngram")
        )
    model = dsi_jax.ModelSource(profile.drafter, max_length=length, dtype=dtype)
    return dataclasses.replace(config, target=target, drafter=dsi_jax.DrafterConfig(model=model))


def check_servers(profile: Profile, pair: dsi_jax.Config) -> None:
    """Refuse a profile without the servers of its models, such as one of bandwidth alone."""
    on_host = profile.drafter in ("", *KINDS) or (_CONFIG.value and pair.drafter.kind != "model")
    for role in ("target",) if on_host else ("target", "drafter"):
        if not profile.tps(role):
            raise ValueError(f"{_PROFILE.value}: {profile.without(role)}")


def read_chip() -> Chip | None:
    """The chip that is named, by itself or by a topology; None: a profile knows."""
    given = [
        f"--{name}" for name, flag in (("profile", _PROFILE), ("topology", _TOPOLOGY), ("chip", _CHIP)) if flag.value
    ]
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'none of --profile, --topology and --chip'} given; give one of the three"
        )
    if _PROFILE.value:
        return None
    chips = config_lib.load(_CHIPS.value, kind=Chips) if _CHIPS.value else _chips.read()
    return chips.find(topology.find(_TOPOLOGY.value).chip if _TOPOLOGY.value else _CHIP.value)


def read_room(profile: Profile, chip: Chip | None) -> tuple[int, int]:
    """How many chips there are, on how many hosts."""
    if _TOPOLOGY.value:
        slice_ = topology.find(_TOPOLOGY.value)
        return _given(_DEVICES, slice_.devices), _given(_HOSTS, slice_.hosts)
    known = topology.TOPOLOGIES.get(profile.environment.get("topology"))
    if chip:
        count = chip.per_host * _given(_HOSTS, 1)
    else:
        count = known.devices if known else profile.environment.get("device_count")
    if _DEVICES.value is None and count is None:
        raise ValueError(f"{_PROFILE.value} does not say how many devices there are; give --devices")
    return _given(_DEVICES, count), _given(_HOSTS, known.hosts if known else 1)


def _given(flag: flags.FlagHolder, default: int) -> int:
    return default if flag.value is None else flag.value


def reckon(pair: dsi_jax.Config, chip: Chip) -> Profile:
    """A profile by the roofline, from the shapes of the models."""
    if not (_TARGET.value or _CONFIG.value):
        raise ValueError("--target is missing, or --config with a card; without a profile, models are asked for")
    return shape_profile(*shapes(pair), chip)


def shapes(pair: dsi_jax.Config) -> tuple[Shape, Shape | None]:
    sources = [pair.target, *([pair.drafter.model] if pair.drafter.kind == "model" else [])]
    found = [Shape(source.path, open_shapes(source).config, source.weights) for source in sources]
    return found[0], found[1] if len(found) > 1 else None


# ------------------------------------------------------------------------------------------------------- what is told

LABELS = {
    "measured": "measured",
    "compiled": "compiled for, not run on",
    "roofline": "by the roofline of published numbers, not compiled and not run",
}


def facts(profile: Profile, answer: search.Answer) -> str:
    room, demand = answer.room, answer.demand
    hosts = f" on {room.hosts} hosts, {1e6 * demand.link_s:g} us between them" if room.hosts > 1 else ""
    crowd = f", {demand.concurrency} sequences at once" if demand.concurrency > 1 else ""
    shared = ", with the slowdown that was measured where servers work at the same time" if profile.contention else ""
    shared += f", with {_latencies.host_words(profile)}"
    return (
        f"{profile.target} with {profile.drafter or 'an n-gram'} on {room.chips} x {profile.chip}{hosts}: acceptance "
        f"{demand.acceptance:g}, {_PROMPT.value} + {demand.new_tokens} tokens{crowd}\n"
        f"latencies: {LABELS[profile.source]}{shared}; {len(answer.tried)} layouts tried in virtual time\n"
    )


def save(out, profile: Profile, pair: dsi_jax.Config, answer: search.Answer, verdict: Verdict) -> None:
    said, choice = words.sentence(verdict, answer), verdict.choice
    write_json(out / "plan.json", records.as_record(answer, verdict, said, profile), indent=1)
    config = card.config_of(choice, pair, _TOKENS.value, _CONCURRENCY.value)
    expected = (
        f"{choice.tokens_per_s:.1f} tokens/s on {profile.chip} at an acceptance of {answer.demand.acceptance:g}, "
        f"predicted ({LABELS[profile.source]}; {_latencies.host_words(profile)})."
    )
    card.write_card(out / "card.py", config, f"{said}", expected)
    written = ["plan.json", "card.py"]
    heading = f"Layouts of {answer.room.chips} x {profile.chip}"
    told = f"a = {answer.demand.acceptance:g}, {answer.demand.new_tokens} tokens"
    try:
        layout_figure.layout_png(
            out / "layouts.png", records.points(answer), records.point(choice, choice.answer_s, answer), heading, told
        )
        written.append("layouts.png")
    except ImportError:
        print("no layouts.png: matplotlib is missing (pip install 'dsi-jax[plots]')")
    print(f"wrote {', '.join(written)} to {out}/; run it: python launch/generate.py --config={out}/card.py")


if __name__ == "__main__":
    _cli.run(main)
