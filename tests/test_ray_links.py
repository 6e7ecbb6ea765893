"""Messages between driver and actors, over Unix sockets and ZeroMQ alike; without Ray."""

import threading
import time

import pytest

from dsi_jax.runtime.ray.links import Inbox, UnixExchange, ZmqExchange, call

KINDS = {"unix": UnixExchange, "zeromq": lambda: ZmqExchange("127.0.0.1")}
LIMIT_S = 20.0


OPEN = []


def dial(address, name):
    OPEN.append(call(address, name))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def hang_up():
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture(params=KINDS)
def exchange(request):
    exchange = KINDS[request.param]()
    yield exchange
    exchange.close()


def heard(exchange, count):
    """The next messages, in the order in which they came."""
    found, until = [], time.monotonic() + LIMIT_S
    while len(found) < count:
        assert time.monotonic() < until, found
        exchange.wait(0.1)
        found += [(name, list(frames)) for name, frames in exchange.receive()]
    return found


def test_messages_arrive_whole_and_in_order_and_with_their_senders(exchange):
    lines = {name: dial(exchange.address, name) for name in ("drafter/0", "target_0/1")}
    sent = [[b"token", b"x" * size, str(size).encode()] for size in (0, 1, 70_000, 3, 500_000)]
    writers = [
        threading.Thread(target=lambda line=line: [line.send(frames) for frames in sent]) for line in lines.values()
    ]
    for writer in writers:  # an actor waits until its driver reads
        writer.start()
    found = heard(exchange, 2 * len(sent))
    for writer in writers:
        writer.join()
    for name in lines:
        assert [frames for sender, frames in found if sender == name.encode()] == sent
    for name, line in lines.items():
        writer = threading.Thread(target=lambda name=name: [exchange.send(name.encode(), frames) for frames in sent])
        writer.start()
        writer.join()
        received = []
        while len(received) < len(sent):
            exchange.wait(0.0)  # what did not fit goes on
            if frames := line.receive(0.05):
                received.append(list(frames))
        assert received == sent


def test_nobody_waits_where_nothing_lies(exchange):
    line = dial(exchange.address, "drafter/0")
    assert line.receive(0.0) is None and line.receive(0.01) is None
    assert list(exchange.receive()) == [] or heard(exchange, 0) == []


def test_a_bell_from_another_thread_ends_the_wait(exchange):
    threading.Timer(0.1, exchange.ring).start()
    begin = time.monotonic()
    exchange.wait(LIMIT_S)
    assert time.monotonic() - begin < LIMIT_S / 2
    assert list(exchange.receive()) == []


def test_messages_to_nobody_are_lost(exchange):
    exchange.send(b"target_9/0", [b"token", b"hello"])
    assert list(exchange.receive()) == []


def test_an_actor_hears_that_its_driver_is_gone():
    exchange = UnixExchange()
    line = dial(exchange.address, "drafter/0")
    line.send([b"here"])
    heard(exchange, 1)
    exchange.close()
    with pytest.raises(EOFError):
        line.receive(LIMIT_S)


def test_an_actor_that_is_gone_disturbs_nobody():
    exchange = UnixExchange()
    first, second = (dial(exchange.address, name) for name in ("a/0", "b/0"))
    for line in (first, second):
        line.send([b"here"])
    heard(exchange, 2)
    first.close()
    exchange.send(b"a/0", [b"x"])
    second.send([b"still here"])
    assert heard(exchange, 1) == [(b"b/0", [b"still here"])]
    exchange.send(b"a/0", [b"x"])
    exchange.close()


def test_an_actor_may_go_while_its_messages_are_read():
    """Whoever reads its first message answers it, and finds it gone."""
    exchange = UnixExchange()
    line = dial(exchange.address, "a/0")
    for word in (b"one", b"two"):
        line.send([word])
    line.close()
    found, until = [], time.monotonic() + LIMIT_S
    while not found and time.monotonic() < until:
        exchange.wait(0.1)
        for _, frames in exchange.receive():
            found.append(frames[0])
            for _ in range(3):
                exchange.send(b"a/0", [b"answer" * 1000])
    assert found[0] == b"one"
    exchange.close()


def test_files_of_high_numbers_are_waited_for_too(monkeypatch):
    monkeypatch.setattr("dsi_jax.runtime.ray.links.MOST_FILES", 0)
    exchange = UnixExchange()
    line = dial(exchange.address, "a/0")
    line.send([b"here"])
    assert heard(exchange, 1) == [(b"a/0", [b"here"])]
    exchange.close()


def test_what_has_come_is_known_before_the_next_job_is_taken(exchange):
    """A cancel that lies behind two jobs is heard before the first of them is begun."""
    line, taken = dial(exchange.address, "drafter/0"), []
    line.send([b"here"])
    heard(exchange, 1)

    def take(frames):
        taken.append(frames[0])
        inbox.put(frames[0])

    inbox = Inbox(line, take, lambda: None)
    for word in (b"one", b"two", b"cancel"):
        exchange.send(b"drafter/0", [word])
    until = time.monotonic() + LIMIT_S
    while len(taken) < 3 and time.monotonic() < until:
        inbox.look()
    assert taken == [b"one", b"two", b"cancel"]
    assert [inbox.get(), inbox.get(), inbox.get()] == taken and inbox.empty()
