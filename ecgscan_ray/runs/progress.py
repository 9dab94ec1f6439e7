"""The progress of a run: rank 0 writes a small file, the driver shows it as one live line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console

from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.filesystem import exists, join, read_bytes, write_bytes_atomic
from ecgscan_ray.filesystem.retry import PATIENCE_S
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.names import PROGRESS

PLAIN_EVERY_S = 10.0
"""Without a terminal, a line this often."""
READ_EVERY_S = 1.0
SILENT_S = 15.0
"""Storage that has not answered for so long fails, and is said to."""


def write_progress(folder: RunFolder, values: Mapping[str, float | str]) -> None:
    """Replace the progress file: figures of the last step, or ``stalled`` with a reason."""
    write_bytes_atomic(join(folder.uri, PROGRESS), json.dumps({"time": time.time(), **values}).encode())


class ProgressLine:
    """Shows the progress file on stderr while the block runs: step, loss terms, images/s, data wait, time left.

    A file works with a driver on the head, workers on other nodes and a bucket between them, without another process or
    an open port. Storage that does not answer is itself worth a line: nothing else comes from the workers then.

    Args:
        folder: Of the run.
        enabled: Whether to show anything.
    """

    def __init__(self, folder: RunFolder, enabled: bool = True) -> None:
        self._uri, self._enabled = join(folder.uri, PROGRESS), enabled
        self._stop, self._console = threading.Event(), Console(stderr=True, highlight=False)
        self._state: dict | None = None
        self._answered, self._reason = time.monotonic(), "no answer"
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._follow)]

    def __enter__(self) -> ProgressLine:
        self._began, self._answered = time.time(), time.monotonic()
        if self._enabled:
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._enabled:
            for thread in self._threads:
                thread.join(timeout=5)

    def _read(self) -> None:
        """In a thread of its own: where storage fails, an answer takes minutes."""
        over = False
        while not over:
            over = self._stop.wait(READ_EVERY_S)
            try:
                state = json.loads(read_bytes(self._uri)) if exists(self._uri) else None
            except EcgscanError as error:
                self._reason = error.what
                continue
            except ValueError:
                state = None
            self._state, self._answered = state or self._state, time.monotonic()

    def _follow(self) -> None:
        live, last, shown, said = self._console.is_terminal, None, 0.0, False
        while True:
            over = self._stop.wait(READ_EVERY_S)
            if over:
                self._threads[0].join(timeout=5)
            silent = time.monotonic() - self._answered > SILENT_S
            if silent != said:
                said = silent
                self._say(f"warning: {self._outage()}" if silent else "the storage of the run answers again")
            state = self._state
            due = live or over or time.monotonic() - shown > PLAIN_EVERY_S
            if state and state["time"] > self._began and state["time"] != last and (due or "stalled" in state):
                last, shown = state["time"], time.monotonic()
                self._console.file.write(("\r\x1b[2K" if live else "") + describe(state) + ("" if live else "\n"))
                self._console.file.flush()
            if over:
                if live and last is not None:
                    self._console.file.write("\n")
                return

    def _outage(self) -> str:
        return (
            f"{self._uri}: the storage of the run does not answer ({self._reason}): training goes on without it, and stops "
            f"if that lasts {PATIENCE_S / 60:.0f} minutes"
        )

    def _say(self, text: str) -> None:
        """A line that stays, above the live one."""
        self._console.file.write(("\r\x1b[2K" if self._console.is_terminal else "") + text + "\n")
        self._console.file.flush()


def describe(state: dict) -> str:
    """The line itself."""
    if "stalled" in state:
        return f"warning: {state['stalled']}"
    left = (state["total_steps"] - state["step"]) * state.get("step_s", 0)
    terms = "  ".join(
        f"{name.removesuffix('_loss').replace('_', ' ')} {value:.3f}"
        for name, value in state.items()
        if name.endswith("_loss")
    )
    return (
        f"step {state['step']}/{state['total_steps']}  loss {state['loss']:.3f} ({terms})  "
        f"{state['images_per_s']:.0f} {state.get('rows', 'rows')}/s  waiting for data {100 * state['data_wait_share']:.0f} %  "
        f"{int(left // 60)}:{int(left % 60):02d} left"
    )
