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
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.names import PROGRESS

PLAIN_EVERY_S = 10.0
"""Without a terminal, a line this often."""


def write_progress(folder: RunFolder, values: Mapping[str, float | str]) -> None:
    """Replace the progress file: figures of the last step, or ``stalled`` with a reason."""
    write_bytes_atomic(join(folder.uri, PROGRESS), json.dumps({"time": time.time(), **values}).encode())


class ProgressLine:
    """Shows the progress file on stderr while the block runs: step, loss terms, images/s, data wait, time left.

    A file works with a driver on the head, workers on other nodes and a bucket between them, without another process or
    an open port.

    Args:
        folder: Of the run.
        enabled: Whether to show anything.
    """

    def __init__(self, folder: RunFolder, enabled: bool = True) -> None:
        self._uri, self._enabled = join(folder.uri, PROGRESS), enabled
        self._stop, self._console = threading.Event(), Console(stderr=True, highlight=False)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressLine:
        self._began = time.time()
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._enabled:
            self._thread.join(timeout=10)

    def _follow(self) -> None:
        live, last, shown = self._console.is_terminal, None, 0.0
        while True:
            over = self._stop.wait(1.0)
            state = self._read()
            due = live or over or time.monotonic() - shown > PLAIN_EVERY_S
            if state and state["time"] > self._began and state["time"] != last and (due or "stalled" in state):
                last, shown = state["time"], time.monotonic()
                self._console.file.write(("\r\x1b[2K" if live else "") + describe(state) + ("" if live else "\n"))
                self._console.file.flush()
            if over:
                if live and last is not None:
                    self._console.file.write("\n")
                return

    def _read(self) -> dict | None:
        try:
            return json.loads(read_bytes(self._uri)) if exists(self._uri) else None
        except (EcgscanError, ValueError):
            return None


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
