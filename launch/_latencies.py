"""What plan.py and expect.py share: the host's work, which is assumed, and where a profile speaks of other things."""

import dataclasses
import os
from collections.abc import Iterator

import jax
from absl import flags

from dsi_jax import Config
from dsi_jax.profiles.difference import differences, other_models, too_many
from dsi_jax.profiles.profile import Profile

HOST_US = 50.0  # a round number; nobody measured it beside an accelerator
HOST_HELP = "Microseconds of the host's work for each forward, an assumption; a measured profile has its own."
_MAKERS = {
    "measured": "launch/measure.py --set=target.verify_width={}",
    "compiled": "launch/compile_for.py --verify_width={}",
    "roofline": "launch/compile_for.py --verify_width={}",
}


def with_host(profile: Profile, flag: flags.FlagHolder) -> Profile:
    """Add the host's work to latencies that were not measured."""
    if not 0 <= flag.value < 1e6:
        raise ValueError(f"--host_us={flag.value:g} must lie in 0 .. 1e6 microseconds")
    if profile.source != "measured":
        return dataclasses.replace(profile, host_s=flag.value / 1e6)
    if flag.present:
        print(f"warning: --host_us={flag.value:g} is passed over: the profile is measured, with {host_words(profile)}")
    return profile


def host_words(profile: Profile) -> str:
    """How much of the host's work is in the latencies, and how that is known."""
    known = "measured" if profile.source == "measured" else "assumed (--host_us)"
    return f"{1e6 * profile.host_s:.0f} us of the host's work for each forward, {known}"


def at_width(profile: Profile, pair: Config) -> tuple[Profile, Config]:
    """Bring a profile and a pair to one W: what the pair asks for, if the profile knows it; else warn.

    A pair that leaves its W open takes the profile's.
    """
    width, made = pair.target.verify_width, profile.verify_width
    if width is None:
        return profile, dataclasses.replace(pair, target=dataclasses.replace(pair.target, verify_width=made))
    if width == made:
        return profile, pair
    targets = [server for server in profile.servers if server.role == "target"]
    if all(any((f.program, f.width) == ("verify", width) for f in server.forwards) for server in targets):
        return dataclasses.replace(profile, verify_width=width), pair
    print(
        f"warning: the profile was made at verify_width={made}, and {width} is asked about; latencies are those of "
        f"{made}. Make a profile of {width}: {_MAKERS[profile.source].format(width)}"
    )
    return profile, pair


def check_length(profile: Profile, pair: Config, prompt_tokens: int, new_tokens: int, remedy: str) -> None:
    """Refuse an answer that the caches do not hold, as an engine would.

    Raises:
      ValueError: with the numbers, and `remedy`.
    """
    room = min(_lengths(profile, pair))
    if prompt_tokens + new_tokens > room:
        raise ValueError(
            f"prompt_tokens={prompt_tokens} and {new_tokens} new tokens exceed the cache of {room} tokens; ask for "
            f"fewer of them, or raise {remedy}"
        )


def _lengths(profile: Profile, pair: Config) -> list[int]:
    sources = [pair.target, *([pair.drafter.model] if pair.drafter.kind == "model" else [])]
    return [source.max_length or profile.max_length for source in sources]


def warn(profile: Profile, pair: Config, devices: int) -> None:
    """Say where a profile that was given speaks of other devices or models than those asked about."""
    for words in _doubts(profile, pair, devices):
        print(f"warning: {words}")


def _doubts(profile: Profile, pair: Config, devices: int) -> Iterator[str]:
    if profile.source == "measured":
        found = jax.devices()
        for difference in differences(profile, found[0].device_kind, len(found), os.cpu_count()):
            yield f"the profile was {difference}; what is predicted is for the devices that were measured"
    yield from too_many(profile, devices)
    yield from other_models(
        profile, pair.target.path, pair.drafter.model.path if pair.drafter.kind == "model" else None
    )
    if (length := max(_lengths(profile, pair))) > profile.max_length:
        yield (
            f"the profile's caches hold {profile.max_length} tokens, and {length} are asked about; bytes and "
            "latencies are the profile's"
        )
