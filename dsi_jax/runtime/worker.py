"""A worker: one thread that feeds a server from a queue, or all servers on the same devices.

It decides nothing, and its failures become events.
"""

import collections
import dataclasses
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from dsi_jax.base import FOREVER, Draft, Event, Failed, Job, Prefill
from dsi_jax.runtime.inject import Mishap
from dsi_jax.runtime.mailbox import Mailbox

Finish = Callable[[], Event]  # waits for a launched job and gives its event


class Server(Protocol):
    def launch(self, job: Job) -> Finish:
        """Enqueue device work; the returned function waits for it and gives the event."""


class Queue(Protocol):
    """What a worker takes its jobs from."""

    def put(self, entry: Any) -> None: ...

    def get(self) -> Any:
        """Wait for the next entry."""

    def empty(self) -> bool: ...


class Answer(NamedTuple):
    """What a worker reports of one job."""

    run: int  # in which it was submitted
    job: Job
    event: Event
    start_s: float
    end_s: float


class Flushed(NamedTuple):
    """A worker's echo: it is done with all that was submitted before this run."""

    run: int
    server: str


class Died(NamedTuple):
    """A worker's thread has ended before its time, and none of its servers will answer again."""

    server: str
    error: BaseException


class Woken(NamedTuple):
    """Somebody wants whoever waits for answers to look up."""


@dataclasses.dataclass
class _Drafts:
    """What the queued drafts of one request need to know: those of older epochs than this are not wanted."""

    epoch: int = 0


class _Task(NamedTuple):
    """A job in the queue."""

    run: int
    job: Job
    drafts: _Drafts | None
    mishap: Mishap | None = None  # a fault made on purpose


class _Launched(NamedTuple):
    """A job on its way through the device."""

    task: _Task
    start_s: float
    finish: Finish


class Worker:
    """Runs jobs in order, on a thread of its own: those of one server, or of all that share its devices.

    A small program on a CPU device runs inside the thread that calls it, so every server needs one; XLA releases the
    GIL meanwhile. On accelerators `depth` jobs are launched ahead, so that the device never waits for the host.

    The controller's thread calls `submit`, `cancel`, `flush` and `close`. An exception that a signal raises there,
    between any two of its steps, leaves no count wrong: whether a worker is done is told by the worker alone.
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        answers: Mailbox,
        clock: Callable[[], float],
        depth: int = 1,
        jobs: Queue | None = None,
    ):
        """Start the thread.

        Args:
          servers: by name, all on the same devices.
          answers: where answers are put.
          clock: seconds.
          depth: jobs launched ahead.
          jobs: where jobs lie until they are begun; None: a queue between two threads.
        """
        self.name = ", ".join(servers)
        self._servers = servers
        self._answers = answers
        self._clock = clock
        self._depth = depth
        self._run = 0  # what was submitted in an earlier run is not begun; written by the controller's thread only
        self._drafts: dict[int, _Drafts] = {}  # by request; written by the controller's thread only
        self._queue: Queue = queue.SimpleQueue() if jobs is None else jobs
        self._taken = self._done = 0  # entries of the queue; written by the worker's thread only
        self._at: tuple[Job, float] | None = None  # what it waits for, and since when; written by its thread only
        self._thread = threading.Thread(target=self._work, name=f"dsi-{self.name}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether it has work in hand or in its queue."""
        return self._taken != self._done or not self._queue.empty()

    @property
    def alive(self) -> bool:
        """Whether its thread is there."""
        return self._thread.is_alive()

    def overdue(self, limit_s: Callable[[Job], float]) -> bool:
        """Whether the job at hand takes longer than this function allows it."""
        at = self._at
        return at is not None and self._clock() - at[1] > limit_s(at[0])

    def submit(self, run: int, job: Job, mishap: Mishap | None = None) -> None:
        match job:
            case Prefill():  # a new sequence counts its epochs from zero; what is queued of an old one is void
                self.cancel(job.request.id, FOREVER)
                drafts = self._drafts[job.request.id] = _Drafts()
            case Draft():
                drafts = self._drafts.setdefault(job.request, _Drafts())
            case _:
                drafts = None
        self._queue.put(_Task(run, job, drafts, mishap))

    def cancel(self, request: int, epoch: int) -> None:
        """Drop the drafts of this request that are of older epochs and have not been launched."""
        if drafts := self._drafts.get(request):
            drafts.epoch = max(drafts.epoch, epoch)

    def flush(self, run: int) -> None:
        """Finish what was launched, drop what was submitted before this run, and echo."""
        self._run = run
        self._drafts.clear()
        self._queue.put(Flushed(run, self.name))

    def end(self) -> None:
        """Stop after the jobs at hand; this waits for nothing."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def close(self, timeout_s: float) -> bool:
        """Stop after the jobs at hand; returns whether the thread ended in time."""
        self.end()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------------------------------ the worker's own thread

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # whatever it is, nobody here will answer any more
            for server in self._servers:
                self._answers.put(Died(server, error))

    def _serve(self) -> None:
        launched: collections.deque[_Launched] = collections.deque()
        while True:
            if launched and (len(launched) >= self._depth or self._queue.empty()):
                self._finish(launched.popleft())
                continue
            entry = self._queue.get()
            self._taken += 1
            match entry:
                case None:
                    return
                case Flushed():
                    while launched:
                        self._finish(launched.popleft())
                    self._answer(entry)
                case _ if self._is_void(entry):
                    self._done += 1
                case _:
                    launched += self._launch(entry)

    def _is_void(self, task: _Task) -> bool:
        return task.run < self._run or (isinstance(task.job, Draft) and task.job.epoch < task.drafts.epoch)

    def _launch(self, task: _Task) -> list[_Launched]:
        start_s = self._clock()
        self._at = task.job, start_s
        try:
            if task.mishap:
                task.mishap.before()
            if self._run > task.run:  # it hung until the run was over
                self._done += 1
                return []
            return [_Launched(task, start_s, self._servers[task.job.server].launch(task.job))]
        except BaseException as error:  # whatever it is, the controller must hear of it
            self._fail(task, error, start_s)
            return []
        finally:
            self._at = None

    def _finish(self, launched: _Launched) -> None:
        task = launched.task
        self._at = task.job, self._clock()
        try:
            event = launched.finish()
            if task.mishap:
                task.mishap.after(self._clock() - launched.start_s)
        except BaseException as error:
            self._fail(task, error, launched.start_s)
            return
        finally:
            self._at = None
        self._answer(Answer(task.run, task.job, event, launched.start_s, self._clock()))

    def _fail(self, task: _Task, error: BaseException, start_s: float) -> None:
        job = task.job
        request = job.request.id if isinstance(job, Prefill) else job.request
        at_fault = getattr(error, "server", job.server)  # a server may blame another one
        failed = Failed(at_fault, job.job, request, type(error).__name__, str(error), error)
        self._answer(Answer(task.run, job, failed, start_s, self._clock()))

    def _answer(self, answer: Answer | Flushed) -> None:
        self._answers.put(answer)
        self._done += 1
