"""Workers and their mailbox: what is dropped, what is counted, and waiting that always ends."""

import ast
import threading
import time
from pathlib import Path

import pytest

from dsi_jax.base import DRAFTER, FOREVER, Digest, Draft, Drafted, Prefill, Prefilled, Request, target
from dsi_jax.runtime.mailbox import Mailbox
from dsi_jax.runtime.worker import Flushed, Worker
from dsi_jax.simulation.oracles import HashOracle
from tests.oracle_servers import OracleServer

ROOT = Path(__file__).parent.parent
REQUEST = Request((1, 2, 3), 40)


class Gated(OracleServer):
    """Drafts end when they are released."""

    def __init__(self):
        super().__init__(HashOracle(1.0))
        self.release = threading.Event()

    def launch(self, job):
        finish = super().launch(job)
        return (lambda: (self.release.wait(5), finish())[1]) if isinstance(job, Draft) else finish


@pytest.fixture
def gated():
    """A drafter's worker whose first draft is under way, with another one queued."""
    server, answers = Gated(), Mailbox()
    worker = Worker({DRAFTER: server}, answers, time.perf_counter)
    worker.submit(0, Prefill(DRAFTER, 0, REQUEST, (1, 2)))
    worker.submit(0, Draft(DRAFTER, 1, 0, 0, 2, (3,), 1))
    worker.submit(0, Draft(DRAFTER, 2, 0, 0, 4, (), 1))
    while len(server.jobs) < 2:
        time.sleep(1e-3)
    yield worker, server, answers
    server.release.set()
    assert worker.close(5)


def events(answers, count):
    return [answers.get(5).event for _ in range(count)]


def test_a_cancelled_draft_that_has_not_started_is_dropped(gated):
    worker, server, answers = gated
    worker.cancel(0, 1)
    worker.submit(0, Draft(DRAFTER, 3, 0, 1, 3, (9,), 1))
    server.release.set()
    assert [(type(e), e.job) for e in events(answers, 3)] == [(Prefilled, 0), (Drafted, 1), (Drafted, 3)]
    assert [job.job for job in server.jobs] == [0, 1, 3]


def test_another_requests_drafts_are_not_dropped(gated):
    worker, server, answers = gated
    worker.cancel(7, FOREVER)
    worker.cancel(0, 0)  # an older epoch than 0 there is not
    server.release.set()
    assert [event.job for event in events(answers, 3)] == [0, 1, 2]


def test_a_request_that_begins_anew_counts_its_epochs_from_zero(gated):
    """What is queued of the old one of this id is void, whatever its epoch."""
    worker, server, answers = gated
    worker.cancel(0, FOREVER)
    worker.submit(0, Prefill(DRAFTER, 3, REQUEST, (1, 2)))
    worker.submit(0, Draft(DRAFTER, 4, 0, 0, 2, (3,), 1))
    server.release.set()
    assert [event.job for event in events(answers, 4)] == [0, 1, 3, 4]


def test_a_flush_drops_what_was_not_begun_and_echoes_last(gated):
    worker, server, answers = gated
    worker.submit(0, Digest(DRAFTER, 3, 0, 0, (1,)))
    worker.flush(1)
    worker.submit(1, Prefill(DRAFTER, 0, REQUEST, (1, 2)))
    server.release.set()
    assert [event.job for event in events(answers, 2)] == [0, 1]
    assert answers.get(5) == Flushed(1, DRAFTER)
    answer = answers.get(5)
    assert answer.run == 1 and isinstance(answer.event, Prefilled)
    while worker.busy:
        time.sleep(1e-3)


def test_a_worker_says_whether_it_is_busy(gated):
    worker, server, answers = gated
    assert worker.busy
    server.release.set()
    events(answers, 3)
    while worker.busy:  # it counts a job as done after it has answered
        time.sleep(1e-3)


# ------------------------------------------------------------------------------------------------------ the mailbox


def test_a_mailbox_keeps_order_and_loses_nothing():
    """Four writers, one reader with deadlines of every length."""
    mailbox, writers, each = Mailbox(), 4, 5_000

    def write(writer):
        for number in range(each):
            mailbox.put((writer, number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    seen = [[] for _ in threads]
    while sum(map(len, seen)) < writers * each:
        if message := mailbox.get((0.0, 1e-6, 1e-3)[sum(map(len, seen)) % 3]):
            seen[message[0]].append(message[1])
    for thread in threads:
        thread.join()
    assert seen == [list(range(each))] * writers
    assert not mailbox and mailbox.get(0) is None


def test_waiting_always_ends():
    """300,000 waits of microseconds, some of them with a message, under a watchdog.

    CPython 3.11's SimpleQueue blocks for good about once in 50,000 of them.
    """
    threads, each = 4, 75_000
    polled = [0] * threads

    def poll(thread):
        mailbox = Mailbox()
        for turn in range(each):
            if turn % 7 == 0:
                mailbox.put(turn)
                mailbox.put(turn)  # the bell rings once for two
            mailbox.get((1e-6, 14e-6, 1e-9)[turn % 3])
            polled[thread] += 1

    for thread in range(threads):
        threading.Thread(target=poll, args=(thread,), daemon=True).start()
    before = [-1] * threads
    while sum(polled) < threads * each:
        stuck = [now == then < each for now, then in zip(polled, before, strict=True)]
        assert not any(stuck), "a wait has blocked"
        before = list(polled)
        time.sleep(0.5)


def test_a_wait_lasts_as_long_as_it_should():
    begin = time.monotonic()
    assert Mailbox().get(0.02) is None
    assert 0.02 <= time.monotonic() - begin < 2


def test_nothing_else_waits_for_a_queue_with_a_deadline():
    for path in [*(ROOT / "dsi_jax").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                if ast.unparse(node.func.value) == "ray":  # which waits for an actor, in no queue of Python's
                    continue
                assert "timeout" not in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"


def test_the_server_has_the_last_word_on_unknown_requests():
    """A draft of a request that was never begun reaches the server, whose refusal becomes an event."""
    answers = Mailbox()
    worker = Worker({target(0): OracleServer(HashOracle(1.0))}, answers, time.perf_counter)
    worker.submit(0, Digest(target(0), 5, 9, 0, (1,)))
    failed = answers.get(5).event
    assert (failed.server, failed.job, failed.request, failed.kind) == (target(0), 5, 9, "KeyError")
    assert isinstance(failed.error, KeyError) and worker.close(5)
