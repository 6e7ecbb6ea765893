"""A profile in lines of text: a line for each server, and one for what is not a forward."""

from collections.abc import Iterator

from dsi_jax.profiles.profile import Forward, Profile, ServerProfile


def server_line(profile: Profile, server: ServerProfile) -> str:
    """Milliseconds of a server's forwards by their width, where its cache is half full."""
    words = {"verify": "verify", "draft": "draft", "extend": "extend", "prefill": "prefill"}
    parts = [f"{server.role} tp={server.tp}:", f"{(server.weights + server.cache) / 1e6:,.1f} MB a device;"]
    for program, word in words.items():
        known = at_half(profile, server, program)
        if known:
            parts.append(f"{word} " + ", ".join(f"{f.width}: {1e3 * f.seconds:.3g}" for f in known) + ";")
    return " ".join(parts).rstrip(";") + " (tokens: ms)" + _reached(profile, server)


def rest_lines(profile: Profile) -> Iterator[str]:
    """Bandwidth, host, transfer and contention, as far as they are known."""
    if profile.bandwidth:
        together = f", {profile.all_bandwidth / 1e9:.3g} of all devices together" if profile.all_bandwidth else ""
        yield f"bandwidth: {profile.bandwidth / 1e9:.3g} GB/s of one device{together}"
    if profile.host_s:
        yield f"host: {1e6 * profile.host_s:.0f} us per job"
    if profile.transfer_s:
        yield f"transfer of tokens to another submesh: {1e6 * profile.transfer_s:.0f} us"
    for one in profile.contention or ():
        yield f"contention: the {one.role} takes {one.ratio:.2f} times as long with {one.servers} servers at work"


def at_half(profile: Profile, server: ServerProfile, program: str) -> list[Forward]:
    """The calls of a program by width, at the length nearest to half a cache."""
    known = [forward for forward in server.forwards if forward.program == program]
    if not known:
        return []
    length = min((forward.length for forward in known), key=lambda found: abs(found - profile.max_length / 2))
    return sorted((f for f in known if f.length == length), key=lambda forward: forward.width)


def _reached(profile: Profile, server: ServerProfile) -> str:
    """The share of the bandwidth that the usual forward reaches."""
    program, width = ("verify", profile.verify_width) if server.role == "target" else ("draft", 1)
    for forward in at_half(profile, server, program):
        share = profile.reached(forward) if forward.width == width else None
        if share is not None:
            return f"; {program} {width} reaches {share:.0%} of the bandwidth"
    return ""
