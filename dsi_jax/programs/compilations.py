"""Counting compilations: after warm-up there must be none."""

import jax


class CompilationCounter:
    """Counts XLA compilations in this process, from the moment the first one is made."""

    _total = 0
    _listening = False

    def __init__(self):
        if not CompilationCounter._listening:
            jax.monitoring.register_event_duration_secs_listener(CompilationCounter._on_event)
            CompilationCounter._listening = True
        self._begin = CompilationCounter._total

    @staticmethod
    def _on_event(name: str, *_, **__) -> None:
        if name.endswith("backend_compile_duration"):
            CompilationCounter._total += 1

    @property
    def count(self) -> int:
        """Compilations since this counter was made."""
        return CompilationCounter._total - self._begin
