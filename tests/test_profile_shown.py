"""A profile as it is read by people and planners: differences and lines in words, the picture, the slowdown."""

import dataclasses

import pytest

from dsi_jax.profiles.difference import differences
from dsi_jax.profiles.profile import Contention, Forward, Profile, ServerProfile
from dsi_jax.telemetry.profile_figure import profile_figure
from dsi_jax.telemetry.profile_words import rest_lines, server_line


def made_up(source: str = "measured", **environment) -> Profile:
    forwards = tuple(Forward("verify", width, 32, 1e-3 * width) for width in (1, 8))
    drafts = (Forward("draft", 1, 32, 1e-4, traffic=1_000),)
    servers = (ServerProfile("target", 1, 10, 10, forwards), ServerProfile("drafter", 1, 5, 5, drafts))
    told = {"device_kind": "cpu", "device_count": 8, "device_platform": "cpu", "cpu_count": 2, "jax": "0.10.2"}
    return Profile(source, "cpu", "t", "d", 8, 64, servers, environment={**told, **environment}, bandwidth=1e8)


def whole() -> Profile:
    """Every call takes a millisecond, and every server has two widths at four lengths."""
    lengths = (0, 14, 28, 56)
    verifies = [Forward("verify", width, length, 1e-3, traffic=50_000) for length in lengths for width in (2, 8)]
    drafts = [Forward("draft", width, max(length, 1), 1e-3, traffic=50_000) for length in lengths for width in (1, 2)]
    servers = tuple(ServerProfile(role, tp, 10, 10, tuple(calls)) for role, tp, calls in (
        ("target", 1, verifies), ("target", 2, verifies), ("drafter", 1, drafts)
    ))  # fmt: skip
    contention = (Contention("target", 1, 2, 1.5), Contention("drafter", 1, 2, 1.25))
    more = {"host_s": 40e-6, "transfer_s": 70e-6, "all_bandwidth": 2e8, "contention": contention}
    return dataclasses.replace(made_up(), servers=servers, **more)


# -------------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("profile", "here", "words"),
    [
        (made_up(), ("cpu", 8, 2, {"jax": "0.10.2"}), []),
        (made_up(), ("NVIDIA H100", 1), ["measured on 8 x cpu, here 1 x NVIDIA H100"]),
        (made_up(), ("cpu", 4), ["measured on 8 x cpu, here 4 x cpu"]),
        (made_up(), ("cpu", 16), ["measured on 8 x cpu, here 16 x cpu"]),
        (made_up(), ("cpu", 8, 16), ["measured on 2 cores, here 16 cores"]),
        (made_up(), ("cpu", 8, 1), ["measured on 2 cores, here 1 core"]),
        (made_up(device_platform="gpu"), ("cpu", 8, 16), []),
        (made_up(), ("cpu", 8, 2, {"jax": "0.11.0"}), ["made with jax 0.10.2, here jax 0.11.0"]),
        (made_up("compiled", device_kind="TPU v5 lite"), ("cpu", 8), []),  # either of its names will do
        (made_up("compiled", device_kind="TPU v4"), ("TPU v5", 8), ["compiled for 8 x TPU v4, here 8 x TPU v5"]),
        (made_up("roofline", device_count=None), ("TPU v4", 4), ["reckoned for cpu, here 4 x TPU v4"]),
        (made_up("roofline"), ("cpu", 8, 2, {"jax": "9"}), []),
    ],
)
def test_differences_in_words(profile, here, words):
    assert differences(profile, *here) == words


# ---------------------------------------------------------------------------------------------------------- as shown


def test_a_line_for_each_server():
    text = server_line(made_up(), made_up().server("target", 1))
    assert text == "target tp=1: 0.0 MB a device; verify 1: 1, 8: 8 (tokens: ms)"
    assert server_line(made_up(), made_up().server("drafter", 1)).endswith("draft 1 reaches 10% of the bandwidth")
    assert list(rest_lines(whole())) == [
        "bandwidth: 0.1 GB/s of one device, 0.2 of all devices together",
        "host: 40 us per job",
        "transfer of tokens to another submesh: 70 us",
        "contention: the target takes 1.50 times as long with 2 servers at work",
        "contention: the drafter takes 1.25 times as long with 2 servers at work",
    ]


def drawn(axes) -> list[list[tuple[float, float]]]:
    """The points of every line of a panel."""
    lines = [line for line in axes.lines if line.get_gid() == "line"]
    return [[(round(x, 6), round(y, 6)) for x, y in line.get_xydata().tolist()] for line in lines]


def test_the_picture_shows_every_figure():
    figure = profile_figure(whole())
    widths, lengths, bursts, reached, beside, _ = figure.axes
    assert drawn(widths) == [[(2, 1), (8, 1)]] * 2
    assert drawn(lengths) == [[(0, 1), (14, 1), (28, 1), (56, 1)]] * 2
    assert drawn(bursts) == [[(1, 1), (2, 0.5)]]
    assert drawn(beside) == [[(1, 1), (2, 1.5)], [(1, 1), (2, 1.25)]]
    shares = [bar.get_width() for bar in reached.patches if bar.get_gid() == "reached"]
    assert shares == pytest.approx([0.5, 0.5, 0.5])  # 50,000 bytes in a millisecond, of 100 MB/s
    texts = [text.get_text() for text in figure.texts]
    assert texts[1].endswith("measured on 8 x cpu, which share 2 cores")


def test_a_profile_from_shapes_is_drawn_with_what_it_has():
    bare = dataclasses.replace(made_up("roofline"), bandwidth=None, servers=made_up().servers[:1])
    words = [text.get_text() for axes in profile_figure(bare).axes for text in axes.texts]
    assert {"the drafter runs on the host", "bandwidth is not known", "not measured"} <= set(words)
    with pytest.raises(ValueError, match="no servers to draw"):
        profile_figure(dataclasses.replace(bare, servers=()))


# ------------------------------------------------------------------------------------------------------- contention


def test_slowdown_is_linear_between_what_was_measured():
    found = tuple(Contention("target", 1, servers, ratio) for servers, ratio in ((2, 1.5), (4, 3.5)))
    profile = dataclasses.replace(made_up(), contention=found)
    assert [profile.slowdown("target", n) for n in (1, 2, 3, 4, 8)] == [1.0, 1.5, 2.5, 3.5, 3.5]
    noisy = dataclasses.replace(
        made_up(), contention=(Contention("target", 1, 2, 0.9), Contention("target", 1, 4, 1.2))
    )
    assert [noisy.slowdown("target", n) for n in (2, 3)] == [1.0, pytest.approx(1.1)]
    assert made_up().slowdown("target", 2) is None
