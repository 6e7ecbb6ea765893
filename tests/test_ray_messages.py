"""What driver and actors say to each other, and how their clocks compare; without Ray."""

import random

import numpy as np
import pytest

from dsi_jax.base import DRAFTER, Cancel, Draft, Drafted, Failed, Handle, Verified, Verify
from dsi_jax.cluster import ClusterConfig
from dsi_jax.runtime.ray.clocks import KEEP, Offset
from dsi_jax.runtime.ray.evidence import Counter, PeerError, RemoteShelf
from dsi_jax.runtime.ray.messages import (
    Answered,
    Flush,
    Flushed,
    Hello,
    Order,
    Peer,
    Ping,
    Pong,
    Told,
    read,
    seal,
    unseal,
    write,
)
from dsi_jax.runtime.shelf import Shelf

TOKEN = b"0123456789abcdef"
VERIFY = Verify("target_1", 7, 3, 2, 10, 11, (5, 6, 7), (Handle(DRAFTER, 4),), 9)
LINES = [
    Order(3, VERIFY),
    Order(4, Draft(DRAFTER, 8, 3, 2, 10, (), 2), "slow", 2.5),
    Cancel(3, 5),
    Told("release"),
    Told("crash"),
    Told("close"),
    Flush(9),
    Flushed(9),
    Ping(1),
    Pong(1, 123.4567890123),
    Peer("tcp://127.0.0.1:5000"),
    Peer("-"),
    Hello(),
    Answered(3, 7, 1.25, 2.5e-7, 11, Verified("target_1", 7, 3, 2, 11, 13, 1, 42)),
    Answered(3, 8, 0.1, 0.2, 0, Failed(DRAFTER, 8, 3, "ValueError", "two words, and\na second line")),
    Answered(3, 8, 0.1, 0.2, 0, Drafted(DRAFTER, 8, 3, 2, 12, (1, 2), (Handle(DRAFTER, 1), Handle(DRAFTER, 2)))),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_a_line_comes_back_as_it_was(line):
    assert read(write(line)) == line


def test_several_lines_travel_in_one_message_in_their_order():
    assert unseal(TOKEN, seal(TOKEN, LINES)) == LINES


@pytest.mark.parametrize("frames", [[], [b""], [TOKEN[:-1] + b"x", write(Hello())], [write(Hello())]])
def test_who_does_not_know_the_token_is_not_heard(frames):
    assert unseal(TOKEN, frames) is None


@pytest.mark.parametrize("line", [b"", b"sell 3", b"order 1 -", b"flush x", b"answered 1 2 3 4 5 {}"])
def test_a_line_that_nobody_wrote_is_refused(line):
    with pytest.raises(ValueError):
        read(line)


@pytest.mark.parametrize("true", [-3.5, 0.0, 1e6])
def test_an_offset_is_known_up_to_half_the_best_round_trip(true):
    draw, offset, now = random.Random(0), Offset(), 100.0
    for _ in range(3 * KEEP):
        there, back = draw.uniform(1e-4, 5e-3), draw.uniform(1e-4, 5e-3)
        offset.saw(now, now + there + true, now + there + back)
        now += 1.0
        assert abs(offset.seconds - true) <= offset.error_s + 1e-9
    assert offset.error_s < 2e-3
    offset.forget()
    assert offset.seconds == 0.0 and offset.error_s == float("inf")


def test_old_round_trips_count_no_more():
    """A clock that has drifted is seen by slower trips than those of long ago."""
    offset = Offset()
    offset.saw(0.0, 5.0, 1e-6)
    for i in range(KEEP):
        offset.saw(float(i), i + 7.0, i + 1e-3)
    assert offset.seconds == pytest.approx(7.0, abs=1e-2)


@pytest.fixture
def drafter():
    """A shelf, its counter, and what a target has of it."""
    shelf, remote = Shelf(), RemoteShelf(TOKEN)
    counter = Counter(shelf, "127.0.0.1", TOKEN)
    yield shelf, counter, remote
    remote.close()
    counter.close()


def test_distributions_are_fetched_once_and_missing_ones_are_none(drafter):
    shelf, counter, remote = drafter
    rows = [np.random.default_rng(i).random(50, np.float32) for i in range(3)]
    handles = [shelf.put(DRAFTER, 1, 0, position, row) for position, row in enumerate(rows)]
    remote.point_to(counter.address)
    first, none, second = remote.fetch([handles[0], None, handles[1]])
    assert none is None and np.array_equal(first, rows[0]) and np.array_equal(second, rows[1])
    assert (remote.fetched, remote.bytes) == (2, 2 * 50 * 4)
    shelf.drop(1)
    assert np.array_equal(remote.fetch([handles[0]])[0], rows[0])
    assert remote.fetch([handles[2]]) == [None]
    assert remote.fetched == 2


def test_a_drafter_that_is_gone_is_the_one_at_fault(drafter):
    shelf, counter, remote = drafter
    handle = shelf.put(DRAFTER, 1, 0, 0, np.zeros(3, np.float32))
    remote.point_to(counter.address)
    assert remote.fetch([handle])[0] is not None
    remote.point_to("-")
    with pytest.raises(PeerError, match="the drafter is gone") as found:
        remote.fetch([handle])
    assert found.value.server == DRAFTER


def test_distributions_are_given_to_nobody_else(drafter, monkeypatch):
    monkeypatch.setattr("dsi_jax.runtime.ray.evidence.PATIENCE_S", 0.1)
    shelf, counter, _ = drafter
    handle = shelf.put(DRAFTER, 1, 0, 0, np.zeros(3, np.float32))
    stranger = RemoteShelf(b"another token")
    stranger.point_to(counter.address)
    with pytest.raises(PeerError, match="did not give"):
        stranger.fetch([handle])
    stranger.close()


def test_impossible_clusters_are_refused():
    with pytest.raises(ValueError, match=r"cluster.restarts=-1 must be at least 0"):
        ClusterConfig(restarts=-1)
    with pytest.raises(ValueError, match=r"cluster.start_s=0 must be a positive"):
        ClusterConfig(start_s=0)
