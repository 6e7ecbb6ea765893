"""The engine: models on submeshes behind workers, and `generate` / `stream` on top of the one event loop."""

import dataclasses
import numbers
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from dsi_jax.base import DRAFTER, Algorithm, Commit, Forecast, Plan, Request, Sampling, Trace, Verification
from dsi_jax.checkpoints.open import OpenedModel, open_model
from dsi_jax.checkpoints.stop_strings import StopStrings
from dsi_jax.checkpoints.tokenizer import TextTokenizer
from dsi_jax.checkpoints.vocabulary import shared_tokens
from dsi_jax.config import Config
from dsi_jax.control import loop, policy
from dsi_jax.control.rule import Blocks
from dsi_jax.decoding.drafting import Drafter, ngram_drafter, synthetic_drafter
from dsi_jax.models.transformer import Transformer
from dsi_jax.placement.mesh import carve
from dsi_jax.planner import PRIOR_ACCEPTANCE, choose_blocks
from dsi_jax.runtime import transfer
from dsi_jax.runtime.backend import DeviceBackend, PacedBackend
from dsi_jax.runtime.programs import CompilationCounter, Model, param_shardings
from dsi_jax.runtime.servers import DraftServer, TargetServer, model_drafter
from dsi_jax.runtime.warm_up import Measured, warm_up
from dsi_jax.simulation.latency import Latencies
from dsi_jax.simulation.replay import ideal_s
from dsi_jax.telemetry.report import Run, measure

Prompt = str | Sequence[int]
OnText = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """One generated continuation, what was measured, and the trace that timelines are drawn from."""

    text: str
    tokens: tuple[int, ...]
    run: Run
    trace: Trace


class Engine:
    """A target (SP replicas) and a drafter on disjoint submeshes, ready to generate with any of the algorithms.

    Use it as a context manager, or call `close`. One request runs at a time: DSI spends all servers on one sequence.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        target: tuple[Any, Any] | None = None,
        drafter: tuple[Any, Any] | Drafter | None = None,
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
        self._own_drafter = drafter if isinstance(drafter, Drafter) else None
        host_drafter = self._own_drafter is not None or (drafter is None and config.drafter.kind != "model")
        mesh = dataclasses.replace(config.mesh, drafter_tp=0 if host_drafter else max(config.mesh.drafter_tp, 1))
        meshes = carve(mesh, devices)
        self.devices = {server: tuple(map(str, m.devices.flat)) for server, m in meshes.items()}
        targets, opened = _place_models(target, config.target, [m for s, m in meshes.items() if s != DRAFTER], progress)
        self.tokenizer = tokenizer or (opened.tokenizer if opened else None)
        self.model_config = targets[0].config
        self._references: dict[Request, tuple[int, ...]] = {}
        if host_drafter:
            self.devices = {DRAFTER: ("host",), **self.devices}
            draft_with = self._own_drafter or self._host_drafter()
        else:
            own = drafter if isinstance(drafter, tuple) else None
            (model,), drafter_opened = _place_models(own, config.drafter.model, [meshes[DRAFTER]], progress)
            model, self._drafter_length = self._share_vocabulary(model, drafter_opened), model.config.max_length
            draft_with = model_drafter(model, config.verification, self.model_config.token_ids)
        servers: dict[str, Any] = {DRAFTER: DraftServer(draft_with, self.model_config.token_ids)}
        for server, model in zip((s for s in meshes if s != DRAFTER), targets, strict=True):
            servers[server] = TargetServer(
                model, config.verification, fast=config.mode == "fast", certain_drafts=host_drafter
            )
        on_cpu = jax.devices()[0].platform == "cpu"
        self._device = DeviceBackend(servers, depth=1 if on_cpu else 2)
        self._finalizer = weakref.finalize(self, self._device.close)
        self._lock = threading.Lock()
        self._judged = self._accepted = 0
        self.measured = self._warm_up(tuple(servers))

    # ------------------------------------------------------------------------------------------------- generating

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        algorithm: Algorithm | str = Algorithm.DSI,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        lookahead: int | str | None = None,
        stop: Sequence[str] | None = None,
        eos_ids: Sequence[int] | None = None,
        latencies: Latencies | None = None,
        on_text: OnText | None = None,
    ) -> list[Result]:
        """Continue every prompt, one after the other.

        Args:
          prompts: a text, a sequence of ids, or a list of either.
          algorithm: "non_si", "si" or "dsi".
          max_new_tokens, sampling, lookahead, stop, eos_ids: default the config's.
          latencies: pace every forward at these; None: as fast as the devices go.
          on_text: called with each piece of text as it is settled.

        Raises:
          ValueError: an impossible request, with the value and the remedy.
          WorkerError: a server failed; its exception is the cause.
        """
        if not self._finalizer.alive:
            raise RuntimeError("the engine is closed; make a new one")
        if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], numbers.Integral)):
            prompts = [prompts]
        algorithm = _algorithm(algorithm)
        results = []
        # all prompts are checked before the first one is run
        for request, text in [
            self._request(prompt, max_new_tokens, sampling, eos_ids, latencies is not None) for prompt in prompts
        ]:
            words = self._text_rule(self.config.stop if stop is None else stop)
            if not self._lock.acquire(blocking=False):
                raise RuntimeError("the engine is busy with another request; wait for it, or make a second engine")
            try:
                results.append(self._continue(request, text, words, algorithm, lookahead, latencies, on_text))
            finally:
                self._lock.release()
        return results

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """Continue one prompt; yields pieces of text as they are settled. Options are those of `generate`.

        The loop runs on a thread of its own, so a slow consumer does not slow down the servers; leaving the
        iterator early ends the run.
        """
        if self.tokenizer is None:
            raise ValueError("streaming gives text, and this engine has no tokenizer; use generate")
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        left = threading.Event()

        def on_text(piece: str) -> None:
            if left.is_set():
                raise _ConsumerLeftError
            pieces.put(piece)

        def work() -> None:
            try:
                self.generate([prompt], on_text=on_text, **options)
                pieces.put(None)
            except _ConsumerLeftError:
                return  # nobody is left to tell
            except BaseException as error:  # raised again where the pieces are consumed
                pieces.put(error)

        thread = threading.Thread(target=work, name="dsi-stream", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            left.set()
            thread.join()

    def check(self, prompt: Prompt, max_new_tokens: int | None = None) -> None:
        """Refuse a prompt that cannot be run, before anything is.

        Raises:
          ValueError: empty, outside the vocabulary, or too long for the cache.
        """
        self._request(prompt, max_new_tokens, None, None, paced=False)

    def plan(self, algorithm: Algorithm, lookahead: int | str | None, latencies: Latencies | None = None) -> Plan:
        """Resolve how the servers are used; `auto` lookahead follows the latencies and the acceptance seen so far."""
        lookahead = self.config.lookahead if lookahead is None else lookahead
        if lookahead != "auto" and not isinstance(lookahead, numbers.Integral):
            raise ValueError(f"lookahead={lookahead!r} must be an integer of at least 1, or auto")
        sp_degree, width = self.config.mesh.sp_degree, self.model_config.verify_width
        forecast = self._forecast(latencies)
        auto = lookahead == "auto"
        # a window of more than W tokens, the last settled one among them, takes several runs of the program, whose
        # price the latencies do not tell
        longest = max(1, width - 1)
        blocks = choose_blocks(algorithm, forecast, sp_degree, longest) if auto else Blocks(0, lookahead)
        return Plan(
            algorithm,
            blocks.lookahead,
            sp_degree,
            first=blocks.first,
            forecast=forecast,
            adapt=auto and algorithm == Algorithm.DSI,
            longest=longest,
            widest=width if auto else max(width, lookahead + 1),
            verification=self.config.verification,
            draft_burst=blocks.lookahead if self.config.drafter.kind == "ngram" and not self._own_drafter else 1,
            draft_lead=2 * sp_degree * max(width, blocks.lookahead),
            digest_lag=width,
        )

    def close(self) -> None:
        """Stop the workers."""
        self._finalizer()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------------- one request

    def _forecast(self, latencies: Latencies | None) -> Forecast:
        """What is known before a run: the floors or the measured latencies, and the acceptance of all runs so far."""
        known = latencies or self.measured
        acceptance = self._accepted / self._judged if self._judged else PRIOR_ACCEPTANCE
        return Forecast(known.target_s, max(known.drafter_s, 1e-9), acceptance)

    def _continue(self, request, prompt, words, algorithm, lookahead, latencies, on_text) -> Result:
        self._device.drain()  # an interrupt may have left answers of the last request behind
        if self.config.drafter.kind == "synthetic" and algorithm != Algorithm.NON_SI:
            self._remember_reference(request)
        plan = self.plan(algorithm, lookahead, latencies)
        backend = self._device
        if latencies:
            backend = PacedBackend(self._device, latencies.duration)
            backend.prepare(request, policy.servers(plan))

        def on_commit(commit: Commit) -> None:
            del commit
            if piece := words.take():
                on_text(piece)

        compilations = CompilationCounter()
        trace = loop.run(plan, request, backend, stop=words, on_commit=on_commit if on_text else None)
        compiled = compilations.count
        text = words.finish()
        if on_text and (piece := words.take()):
            on_text(piece)
        ideal = None
        if latencies:
            may_be_silent = self._own_drafter is not None or self.config.drafter.kind == "ngram"
            ideal = ideal_s(trace, plan, request, latencies, may_be_silent)
        devices = {server: self.devices[server] for server in policy.servers(plan)}
        run = measure(
            trace,
            request,
            plan,
            prompt=prompt,
            text=text,
            devices=devices,
            compilations_after_warmup=compiled,
            ideal_s=ideal,
            mode=self.config.mode,
        )
        self._judged += run.judged_drafts or 0
        self._accepted += run.accepted_drafts or 0
        return Result(text, run.tokens, run, trace)

    def _request(self, prompt: Prompt, max_new_tokens, sampling, eos_ids, paced: bool) -> tuple[Request, str]:
        """Check one prompt at the border."""
        if isinstance(prompt, str):
            ids, text = tuple(self._encode(prompt)), prompt
        else:
            ids = tuple(int(token) for token in prompt)
            text = self.tokenizer.decode(list(ids)) if self.tokenizer else " ".join(map(str, ids))
        vocab = self.model_config.token_ids
        if bad := [token for token in ids if not 0 <= token < vocab]:
            raise ValueError(f"token id {bad[0]} of the prompt lies outside the vocabulary 0..{vocab - 1}")
        wanted = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        eos_ids = self.config.eos_ids if eos_ids is None else eos_ids
        if eos_ids is None:
            eos_ids = self.tokenizer.eos_ids if self.tokenizer else ()
        request = Request(ids, wanted, sampling or self.config.sampling, frozenset(eos_ids), reuse_prompt=paced)
        if len(ids) + wanted > self.max_length:
            raise ValueError(
                f"prompt of {len(ids)} tokens + max_new_tokens={wanted} exceed the cache of {self.max_length} tokens; "
                "shorten one of them or raise target.max_length"
            )
        return request, text

    def _encode(self, prompt: str) -> list[int]:
        if self.tokenizer is None:
            raise ValueError("this engine has no tokenizer; give prompts as token ids")
        if not prompt:
            raise ValueError("the prompt is empty; give at least one character")
        if self.config.chat:
            return self.tokenizer.encode_chat([{"role": "user", "content": prompt}])
        return self.tokenizer.encode(prompt)

    def _text_rule(self, stop: Sequence[str]) -> Any:
        stop = (stop,) if isinstance(stop, str) else stop
        if self.tokenizer is not None:
            return StopStrings(self.tokenizer, stop)
        if stop:
            raise ValueError("stop strings need a tokenizer, and this engine has none")
        return _NoText()

    def _remember_reference(self, request: Request) -> None:
        """Generate, off the record, what the synthetic drafter is to propose."""
        if request not in self._references:
            trace = loop.run(self.plan(Algorithm.NON_SI, 1), request, self._device)
            self._references[request] = tuple(token for commit in trace.commits for token in commit.tokens)

    # ------------------------------------------------------------------------------------------------------ building

    def _host_drafter(self) -> Drafter:
        settings = self.config.drafter
        if settings.kind == "ngram":
            return ngram_drafter(settings.longest, settings.shortest)
        if self.config.verification == Verification.REJECTION:
            raise ValueError("a synthetic drafter has a set acceptance rate only under verification=coupled")
        return synthetic_drafter(
            lambda request: self._references.get(request, ()), settings.acceptance, self.model_config.token_ids
        )

    def _share_vocabulary(self, drafter: Model, opened: OpenedModel | None) -> Model:
        """Cut the drafter to the ids that the target and both tokenizers have; the target draws as it does alone."""
        ours, theirs = self.model_config.token_ids, drafter.config.token_ids
        tokenizers = [self.tokenizer, opened.tokenizer if opened else None]
        if None not in tokenizers:
            shared = min(ours, theirs, shared_tokens(*tokenizers))
        elif ours == theirs:
            shared = theirs
        else:
            raise ValueError(
                f"target and drafter must share a vocabulary, but have {ours} and {theirs} tokens; "
                "sizes may differ where both have a tokenizer, and it is the same"
            )
        if shared == theirs:
            return drafter
        config = dataclasses.replace(drafter.config, unused_ids=drafter.config.vocab_size - shared)
        return dataclasses.replace(drafter, module=drafter.module.clone(config=config))

    @property
    def max_length(self) -> int:
        """Tokens of prompt and continuation together that every cache can hold."""
        return min(self.model_config.max_length, getattr(self, "_drafter_length", self.model_config.max_length))

    def _warm_up(self, servers: tuple[str, ...]) -> Measured:
        width = max(self.model_config.verify_width, self.model_config.prefill_width or 0)
        try:
            return warm_up(self._device, servers, min(width + 2, self.max_length - 4), self.config.verification)
        except BaseException:
            self.close()
            raise


class _ConsumerLeftError(Exception):
    """The consumer of a stream went away."""


class _NoText:
    """Stands in for `StopStrings` where there is no tokenizer."""

    def __call__(self, token: int) -> bool:
        return False

    def take(self) -> str:
        return ""

    def finish(self) -> str:
        return ""


def _algorithm(name: Algorithm | str) -> Algorithm:
    try:
        return Algorithm(name)
    except ValueError:
        raise ValueError(f"algorithm={name!r} is not known; choose one of {', '.join(Algorithm)}") from None


def _place_models(own, source, meshes, progress: bool) -> tuple[list[Model], OpenedModel | None]:
    """Put one copy of the weights on each submesh, from the user's own (module, params) or from a checkpoint."""
    if own is not None:
        module, params = own
        opened, shardings = None, [param_shardings(module, mesh) for mesh in meshes]
        replicas = [transfer.put(params, sharding) for sharding in shardings]
    else:
        opened = open_model(source, progress)
        module = Transformer(opened.config)
        shardings = [param_shardings(module, mesh) for mesh in meshes]
        replicas = opened.load(shardings)
    return [Model(module, params, mesh) for params, mesh in zip(replicas, meshes, strict=True)], opened
