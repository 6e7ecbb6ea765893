"""The engine: models on submeshes behind servers, and `generate`, `serve` and `stream` on top of the one event loop."""

import dataclasses
import itertools
import numbers
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from dsi_jax.base import ONE_HOST, Deadlines, Forecast, Plan, Policy, Request, Sampling, StoppedError, Trace
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.config import Config
from dsi_jax.control import loop
from dsi_jax.control.record import Task
from dsi_jax.control.stop import Stop
from dsi_jax.drafters import Drafter
from dsi_jax.engine.acceptance import SeenAcceptance
from dsi_jax.engine.budgets import budget_of, ideal_s, replay_runs
from dsi_jax.engine.plans import deadlines_of, make_plan
from dsi_jax.engine.requests import Asked, Border, NoText, Prompt, StopStrings, as_prompts, is_integer
from dsi_jax.engine.result import Result
from dsi_jax.engine.stream import OnText, stream
from dsi_jax.faults import Fault, read_faults
from dsi_jax.opening.pair import Own, open_pair
from dsi_jax.opening.servers import Experiment
from dsi_jax.policies import NON_SI, find_policy
from dsi_jax.runtime.backends import BACKENDS
from dsi_jax.runtime.backends.paced import PacedBackend
from dsi_jax.runtime.warm_up import WarmedUp, warm_up
from dsi_jax.simulation.latencies import Latencies
from dsi_jax.simulation.steps import Steps
from dsi_jax.telemetry.run import measure

CLOSED = "the engine is closed; make a new one"


@dataclasses.dataclass(frozen=True)
class _Job:
    """One prompt on its way through the engine."""

    index: int
    asked: Asked
    words: StopStrings | NoText
    timeout_s: float

    @property
    def request(self) -> Request:
        return self.asked.request


class _Turn:
    """Held by the call that runs."""


class Engine:
    """A target (SP replicas) and a drafter on disjoint submeshes, ready to generate with any policy.

    Use it as a context manager, or call `close`. One call runs at a time; it may have several prompts under way.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        target: Own | None = None,
        drafter: Own | Drafter | None = None,
        tokenizer: TextTokenizer | None = None,
        devices: Sequence[jax.Device] | None = None,
        progress: bool = False,
    ):
        """Load the weights to their submeshes, compile every program, and measure the latencies.

        Args:
          config: the experiment; default the embedded pair on one target server.
          target: a user's own (module, params) instead of the config's checkpoint. The module is called as
            `models.transformer.Transformer` is and has a `config: ModelConfig`; the params are not boxed.
          drafter: a user's own (module, params), or any `Drafter`, instead of the config's.
          tokenizer: goes with a user's own target; without one, prompts and results are ids.
          devices: default `jax.devices()`.
          progress: show bars while loading.

        Raises:
          ValueError: the config is impossible on these devices, or vocabularies differ.
          FileNotFoundError: a checkpoint is missing.
        """
        self.config = config = config or Config()
        pair = open_pair(config, target, drafter, tokenizer, progress)
        self._border = Border(config, pair)
        self.tokenizer, self.model_config, self.max_length = pair.tokenizer, pair.target.config, pair.max_length
        opened = BACKENDS[config.backend](Experiment(config, pair, devices))
        self.devices, self._drafter, self._shares = opened.devices, opened.drafter, opened.shares
        self._backend, self._compilations = opened.backend, opened.compilations
        self._finalizer = weakref.finalize(self, self._backend.close)
        self._lock, self._turn = threading.Lock(), weakref.ref(_Turn())
        self._ids = itertools.count()
        self._halt: Stop | None = None  # of the call that runs
        self._seen = SeenAcceptance()
        self._continuations: dict[Request, tuple[int, ...]] = {}
        self.measured, self.exactness, self._hop_s, self._dispatch_s = self._warm_up(opened.servers)
        self._backend.deadlines = self._deadlines(None)

    # ------------------------------------------------------------------------------------------------- generating

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        algorithm: Policy | str | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> list[Result]:
        """Continue every prompt; returns the results in their order.

        Args:
          prompts: a text, a sequence of ids, or a list of either.
          algorithm: a policy's name, its record, or a file that defines one; default the config's.
          on_text: called with each piece of text as it is settled; for one prompt at a time only.
          options: those of `serve`.

        Raises:
          ValueError: an impossible request, with the value and the remedy.
          RequestError: a prompt ended before its time; `results` holds what there is of every prompt. It is a
            WorkerError where no server was left that could go on (the exception of the last one is the cause), a
            RequestTimeoutError after `timeout_s`, and a StoppedError where the call was interrupted.
        """
        served = self._serve(prompts, algorithm, on_text, with_replays=True, **options)
        results = sorted(served, key=lambda result: result.index)
        for result in results:
            if result.error:
                result.error.results = results
                raise result.error
        if len(results) < len(as_prompts(prompts)):  # interrupted before the next one began
            error = StoppedError("it was stopped before all prompts were continued")
            error.results = results
            raise error
        return results

    def serve(
        self, prompts: Prompt | Sequence[Prompt], *, algorithm: Policy | str | None = None, **options: Any
    ) -> Iterator[Result]:
        """Continue every prompt; yields each result as it is complete. A failure ends its own prompt alone.

        Args:
          prompts, algorithm: as in `generate`.
          concurrency: how many prompts are under way at once, on the same servers; default 1.
          max_new_tokens, sampling, lookahead, stop, eos_ids: default the config's.
          latencies: pace every forward at these; None: as fast as the devices go. With several prompts under way the
            ideal of one needs the outcomes of all, so `serve` leaves it out then, and `generate` has it.
          acceptance: the rate that planning reckons with; None: that of all runs with this sampling so far.
          timeout_s: seconds that a prompt may take, after which it ends with what it has; default the config's.
          inject: faults made on purpose, such as "target_2:crash@40" (`faults.py`); default the config's.
          halt: ends the call when it is requested, as `interrupt` does.

        Raises:
          ValueError: an impossible request, before anything is run.
        """
        return self._serve(prompts, algorithm, None, **options)

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """Continue one prompt; yields pieces of text as they are settled. Options are those of `generate`.

        The loop runs on a thread of its own, so a slow consumer does not slow down the servers; leaving the
        iterator early ends the run.
        """
        self._check_open()
        if self.tokenizer is None:
            raise ValueError("streaming gives text, and this engine has no tokenizer; use generate")
        if "on_text" in options:
            raise ValueError("stream yields the text, so it takes no on_text; use generate")
        self._border.ask(prompt, max_new_tokens=options.get("max_new_tokens"))
        halt = options.setdefault("halt", Stop())
        return stream(lambda on_text: self.generate([prompt], on_text=on_text, **options), halt.request)

    def check(self, prompt: Prompt, max_new_tokens: int | None = None) -> None:
        """Refuse a prompt that cannot be run, before anything is.

        Raises:
          ValueError: empty, outside the vocabulary, or too long for the cache.
        """
        self._check_open()
        self._border.ask(prompt, max_new_tokens=max_new_tokens)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids that the target reads of a prompt, the chat template's among them.

        Raises:
          ValueError: as in `check`.
        """
        return self._border.ask(prompt, max_new_tokens=1).request.prompt

    def plan(
        self,
        algorithm: Policy | str,
        lookahead: int | str | None = None,
        latencies: Latencies | None = None,
        *,
        sampling: Sampling | None = None,
        acceptance: float | None = None,
        concurrency: int = 1,
    ) -> Plan:
        """Resolve how the servers are used; `auto` lookahead is derived from latencies and acceptance rate."""
        concurrency = self._check_concurrency(concurrency)
        forecast = self._forecast(latencies, sampling, acceptance)
        lookahead = self._border.lookahead(lookahead)
        dispatch_s, links = 0.0 if latencies else self._dispatch_s, latencies.links if latencies else ONE_HOST
        policy = self._check_turns(find_policy(algorithm))
        deadlines = self._deadlines(latencies)
        return make_plan(
            self.config,
            self.model_config,
            policy,
            lookahead,
            forecast,
            self._drafter,
            dispatch_s,
            concurrency,
            links,
            deadlines,
        )

    def interrupt(self) -> bool:
        """End the call that runs, within a forward; returns whether there is one.

        It raises a StoppedError that has its results so far. Any thread may ask for it, and the handler of a signal.
        """
        if self._turn() is None or self._halt is None:
            return False
        self._halt.request()
        return True

    def close(self) -> None:
        """Stop the servers; a run that is under way ends with an error."""
        self._finalizer()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------- one call

    def _serve(
        self,
        prompts: Prompt | Sequence[Prompt],
        algorithm: Policy | str | None,
        on_text: OnText | None,
        *,
        with_replays: bool = False,
        concurrency: int = 1,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        lookahead: int | str | None = None,
        stop: Sequence[str] | None = None,
        eos_ids: Sequence[int] | None = None,
        latencies: Latencies | None = None,
        acceptance: float | None = None,
        timeout_s: float | None = None,
        inject: str | Sequence[str] | None = None,
        halt: Stop | None = None,
    ) -> Iterator[Result]:
        self._check_open()
        concurrency = self._check_concurrency(concurrency, on_text)
        if latencies is not None and not isinstance(latencies, Latencies):
            raise ValueError(f"latencies={latencies!r} must be Latencies(target_s, drafter_s)")
        policy = self._check_turns(find_policy(self.config.algorithm if algorithm is None else algorithm))
        lookahead = self._border.lookahead(lookahead)
        faults = read_faults(self.config.inject if inject is None else inject, self.config.servers)
        timeout_s = self._border.timeout(timeout_s)
        halt = halt or Stop()
        jobs = [  # all prompts are checked before the first one is run
            _Job(
                index,
                self._border.ask(
                    prompt,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    eos_ids=eos_ids,
                    reuse_prompt=latencies is not None,
                    id=next(self._ids),
                ),
                self._border.follow(stop),
                timeout_s,
            )
            for index, prompt in enumerate(as_prompts(prompts))
        ]

        def batch(jobs: list[_Job]) -> Iterator[Result]:
            plan = self.plan(
                policy, lookahead, latencies, sampling=sampling, acceptance=acceptance, concurrency=concurrency
            )
            replayed = (with_replays or (latencies is not None and concurrency == 1)) and not faults
            return self._run(plan, jobs, latencies, on_text, replayed, faults, halt)

        # one at a time, every prompt has a plan of its own, which knows the acceptance of those before it
        batches = [jobs] if concurrency > 1 else [[job] for job in jobs]
        return self._exclusively((result for jobs in batches if not halt.requested for result in batch(jobs)), halt)

    def _exclusively(self, results: Iterator[Result], halt: Stop) -> Iterator[Result]:
        """Let one call run at a time. A turn is over when nothing holds it: no interrupt can prevent that."""
        turn = _Turn()
        try:
            with self._lock:
                if self._turn() is not None:
                    raise RuntimeError("the engine is busy with another request; wait for it, or make a second engine")
                self._turn, self._halt = weakref.ref(turn), halt
            yield from results
        except RuntimeError:
            self._check_open()  # a backend that was closed says so in words of its own
            raise
        finally:
            del turn

    def _run(
        self,
        plan: Plan,
        jobs: list[_Job],
        latencies: Latencies | None,
        on_text: OnText | None,
        with_replays: bool,
        faults: Sequence[Fault],
        halt: Stop,
    ) -> Iterator[Result]:
        """Run prompts under one plan; yields the results as they are complete, or with their replays at the end."""
        self._backend.inject(())  # as an earlier call may have left them
        self._backend.drain()  # an interrupt may have left answers of the last call behind
        if plan.policy.drafts and self._drafter.rehearse:
            self._rehearse(jobs)
        backend = self._backend
        if latencies:
            backend = PacedBackend(self._backend, latencies.duration, latencies.links)
            backend.prepare([job.request for job in jobs[: plan.concurrency]], plan.servers)
        backend.inject(faults)
        compiled = self._compilations()
        by_id = {job.request.id: job for job in jobs}
        tasks = [Task(job.request, job.words, self._on_commit(job, on_text), job.timeout_s) for job in jobs]
        traces = loop.serve(plan, tasks, backend, stop=halt)
        replays: dict[int, Steps] = {}
        if with_replays:  # that of one needs the outcomes of all
            traces = list(traces)
            requests, silent = [job.request for job in jobs], self._drafter.may_be_silent
            replays = replay_runs(traces, requests, plan, latencies, self.measured, self._hop_s, silent)
        for trace in traces:
            job = by_id[trace.request]
            yield self._result(trace, job, plan, self._compilations() - compiled, replays.get(trace.request), on_text)

    def _on_commit(self, job: _Job, on_text: OnText | None):
        if on_text is None:
            return None

        def on_commit(_) -> None:
            if piece := job.words.take():
                on_text(piece)
            self._check_open()

        return on_commit

    def _result(
        self, trace: Trace, job: _Job, plan: Plan, compiled: int, replayed: Steps | None, on_text: OnText | None
    ) -> Result:
        text = job.words.finish()
        if on_text and (piece := job.words.take()):
            on_text(piece)
        run = measure(
            trace,
            job.request,
            plan,
            prompt=job.asked.text,
            text=text,
            devices={server: self.devices[server] for server in trace.servers},
            compilations_after_warmup=compiled,
            ideal_s=ideal_s(replayed) if trace.clock == "paced" else None,
            budget=budget_of(trace, replayed),
            mode=self.config.mode,
        )
        self._seen.saw(job.request.sampling, run)
        return Result(text, run.tokens, run, trace, job.index)

    def _rehearse(self, jobs: list[_Job]) -> None:
        """Decode by the target alone, off the record, for a drafter that wants to know what the target will say."""
        for job in jobs:
            key = dataclasses.replace(job.request, id=0)
            if key not in self._continuations:
                trace = loop.run(self.plan(NON_SI, 1), job.request, self._backend)
                self._continuations[key] = tuple(token for commit in trace.commits for token in commit.tokens)
            self._drafter.rehearse(job.request, self._continuations[key])

    # ------------------------------------------------------------------------------------------------------ checking

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise RuntimeError(CLOSED)

    def _check_turns(self, policy: Policy) -> Policy:
        if self._shares and policy.drafts and not policy.in_turn:
            raise ValueError(
                f"algorithm={policy.name} drafts while it verifies, and with mesh.drafter_shares=True both would "
                "want the same devices; choose si or non_si, or set mesh.drafter_shares=False"
            )
        return policy

    def _check_concurrency(self, concurrency: int, on_text: OnText | None = None) -> int:
        if on_text is not None and not callable(on_text):
            raise ValueError(f"on_text={on_text!r} must be a function that takes a piece of text")
        if not is_integer(concurrency) or not 1 <= concurrency <= self.config.concurrency:
            raise ValueError(
                f"concurrency={concurrency!r} must be an integer from 1 to {self.config.concurrency}, the caches that "
                "every server has; set concurrency in the config to have more"
            )
        if concurrency > 1 and on_text:
            raise ValueError(f"on_text follows one prompt at a time, and concurrency={concurrency}; use serve")
        return int(concurrency)

    def _forecast(self, latencies: Latencies | None, sampling: Sampling | None, acceptance: float | None) -> Forecast:
        """What is known before a run: the floors or the measured latencies, and the acceptance rate."""
        known = latencies or self.measured
        if acceptance is None:
            acceptance = self._seen.rate(sampling or self.config.sampling)
        if not isinstance(acceptance, numbers.Real):
            raise ValueError(f"acceptance={acceptance!r} must be a number in [0, 1]")
        return Forecast(known.target_s, known.drafter_s, acceptance)

    def _deadlines(self, latencies: Latencies | None) -> Deadlines:
        paces = (latencies.target_s, latencies.drafter_s) if latencies else (0.0, 0.0)
        target_s, drafter_s = self.measured.target_s + paces[0], self.measured.drafter_s + paces[1]
        return deadlines_of(self.config, self.model_config, target_s, drafter_s)

    def _warm_up(self, servers: Mapping[str, Any]) -> WarmedUp:
        width = max(self.model_config.verify_width, self.model_config.prefill_width or 0)
        try:
            return warm_up(
                self._backend,
                servers,
                min(width + 2, self.max_length - 4),
                self.config.verification,
                exact=self.config.mode == "exact",
                burst=self._drafter.longest,
            )
        except BaseException:
            self.close()
            raise
