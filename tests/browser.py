"""A real browser without a window, driven through a pipe by the DevTools protocol."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--window-size=1400,1000", "--force-device-scale-factor=1", "--remote-debugging-pipe"),
)
DEADLINE_S = 120  # a slow machine takes seconds
_AS_3_AND_4 = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(pipes[0], 3), os.dup2(pipes[1], 4)  # where the browser looks for them
os.execv(sys.argv[3], sys.argv[3:])
"""
_LISTENERS = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(`blocked: ${event.blockedURI}`));
</script>"""


def find() -> str:
    """Path of the browser; the test is skipped where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")


class Page:
    """A page that is open in the browser."""

    def __init__(self, sends: Any, answers: Any):
        self._sends, self._answers, self._count, self._session = sends, answers, 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call the DevTools protocol, and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        self._sends.write(json.dumps(message).encode() + b"\0")
        self._sends.flush()
        while (answer := self._receive()).get("id") != self._count:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\0"):
            one = self._answers.read(1)
            assert one, "the browser has gone"
            text += one
        return json.loads(text[:-1])

    def run(self, script: str) -> Any:
        """Run the body of an async function in the page; returns what it returns."""
        done = self.call(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what was asked for."""
        self.run("await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Use the mouse: mouseMoved, mousePressed, mouseReleased, mouseWheel."""
        button = {"button": "left", "clickCount": 1} if kind in ("mousePressed", "mouseReleased") else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **more)
        self.settle()

    def key(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()


@contextlib.contextmanager
def opened(page: str, folder: Path) -> Iterator[Page]:
    """Open a page (HTML) in a browser of its own; `errors` in it lists what went wrong there."""
    command = [find(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    (folder / "page.html").write_text(page.replace("<head>", f"<head>{_LISTENERS}", 1), encoding="utf-8")
    to_browser, our_sends = os.pipe()
    our_answers, from_browser = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _AS_3_AND_4, str(to_browser), str(from_browser), *command],
        pass_fds=(to_browser, from_browser),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_browser), os.close(from_browser)
    alarm = signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(DEADLINE_S)
    try:
        with open(our_sends, "wb") as sends, open(our_answers, "rb") as answers:
            one = Page(sends, answers)
            one.call("Page.navigate", url=(folder / "page.html").as_uri())
            one.run('if (document.readyState !== "complete") await new Promise((go) => addEventListener("load", go))')
            one.settle()
            yield one
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _too_late(*_: Any) -> None:
    raise TimeoutError(f"the browser did not answer within {DEADLINE_S} s")
