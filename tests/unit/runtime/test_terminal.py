"""Interrupts of a command: heard even where other code swallows the first, and not repeated into the clearing up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BEGIN = """
import os, signal, sys, time
from ecgscan_ray.runtime import terminal
terminal.AGAIN_S = 0.2
terminal.take()
def call(): os.kill(os.getpid(), signal.{signal})
"""
SWALLOWED = """
try:
    call()
except BaseException:
    pass
for _ in range(100):
    time.sleep(0.05)
print("went on")
"""
CLEARED_UP = """
try:
    try:
        call()
        time.sleep(5)
    finally:
        time.sleep(1)
        print("cleared up", flush=True)
except KeyboardInterrupt:
    terminal.leave(130)
    print("once", flush=True)
    time.sleep(1)
"""


def run(program: str, number: signal.Signals) -> tuple[str, str, float]:
    began = time.monotonic()
    command = [sys.executable, "-c", BEGIN.format(signal=number.name) + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_interrupt_comes_again(number: signal.Signals) -> None:
    out, err, took = run(SWALLOWED, number)
    assert "went on" not in out and err.strip().endswith("KeyboardInterrupt") and took < 5


def test_clearing_up_is_not_interrupted_again() -> None:
    out, err, _ = run(CLEARED_UP, signal.SIGINT)
    assert out == "cleared up\nonce\n" and not err


ENDED = """
import atexit
import pyarrow
atexit.register(lambda: print("closed", file=sys.stderr))
print("done", end="")
class Slow:
    def __del__(self): os.abort()  # stands for what comes back to an interpreter that is being taken down
kept = Slow()
terminal.leave({status})
"""


@pytest.mark.parametrize(("status", "closed"), [(0, "closed\n"), (2, "")])
def test_a_command_that_is_done_is_not_taken_down_with_its_interpreter(status: int, closed: str) -> None:
    program = BEGIN.format(signal="SIGINT") + ENDED.format(status=status)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done", closed)


DIVERTED = """
import logging, pathlib, sys, warnings
ours = logging.getLogger("ecgscan_ray")
ours.addHandler(logging.StreamHandler(sys.stderr))
ours.setLevel(logging.INFO)
ray_logger = logging.getLogger("ray")
ray_logger.addHandler(logging.StreamHandler(sys.stderr))
tune_logger = logging.getLogger("ray.tune.execution")
log = pathlib.Path(sys.argv[1])
terminal.divert(log)
terminal.divert_loggers(["ray", "py.warnings"])
terminal.divert_loggers(["ray", "py.warnings"])
os.write(1, b"native on 1\\n")
os.write(2, b"native on 2\\n")
ray_logger.error("a logger of Ray")
tune_logger.warning("a logger of Tune")
warnings.warn("a warning of Python")
ours.info("ours")
print("printed")
"""


def test_rays_messages_go_to_a_file_that_is_named_once(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    program = BEGIN.format(signal="SIGINT") + DIVERTED
    done = subprocess.run([sys.executable, "-c", program, str(log)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "printed\n" and done.stderr == f"Ray's messages go to {log}\nours\n"
    messages = ["native on 1", "native on 2", "a logger of Ray", "a logger of Tune", "a warning of Python"]
    assert [log.read_text().count(message) for message in messages] == [1, 1, 1, 1, 1]
    assert log.stat().st_mode & 0o077 == 0
