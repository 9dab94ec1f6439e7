"""How a command ends that is interrupted, or whose cluster is lost: its status, one line, and no process behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tiny import tiny_config

pytestmark = pytest.mark.verify

PROGRESS = re.compile(r"images/s|Ray's messages go to|\d+ of \d+ (pages|recordings)$")
GOES_ON = "the same command goes on from the last checkpoint"


class Command:
    """``ecgscan`` in a session of its own, as a terminal's foreground job."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        program = "from ecgscan_ray.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def until(self, path: Path) -> None:
        """Until the file is there."""
        deadline = time.monotonic() + 300
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.3)

    def worked(self, cpu_s: float) -> None:
        """Until the process has used this much time of a core: on a busy machine it starts late."""
        deadline = time.monotonic() + 60
        while sum(psutil.Process(self.process.pid).cpu_times()[:2]) < cpu_s and time.monotonic() < deadline:
            time.sleep(0.02)

    def end(self) -> tuple[int, list[str], list[str]]:
        """Status, and the lines of stdout and stderr without those on progress."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out.splitlines(), [s for s in err.splitlines() if s and not PROGRESS.search(s)]


@pytest.fixture
def short() -> Iterator[str]:
    """A short folder for Ray's sockets."""
    place = tempfile.mkdtemp(prefix="ecgscan-", dir="/tmp")
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def running(sample_store: str, tmp_path: Path, short: str) -> Iterator[Command]:
    """A pretraining that has taken its first steps."""
    from ecgscan_ray.config import dump_yaml

    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(tiny_config(training__steps=5000)))
    arguments = ("--config", str(config), "--store", sample_store, "--out", str(tmp_path / "run"))
    command = Command("pretrain", *arguments, RAY_TMPDIR=short)
    try:
        command.until(tmp_path / "run" / "progress.json")
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()


def gone(family: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(family, timeout=20)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pretraining(running: Command, number: signal.Signals) -> None:
    family = running.family()
    os.killpg(running.process.pid, number) if number == signal.SIGINT else running.process.send_signal(number)
    began = time.monotonic()
    status, out, err = running.end()
    assert (status, out, err) == (130, [], [f"interrupted: {GOES_ON}"])
    assert time.monotonic() - began < 30
    assert gone(family)


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ("gcs_server", "Ray's process gcs_server has ended (killed, or out of memory)"),
        ("raylet/raylet", "Ray's process raylet has ended (killed, or out of memory)"),
        ("ray::TrainController", "a process of Ray has died (killed, or out of memory)"),
    ],
)
def test_a_lost_cluster(running: Command, tmp_path: Path, victim: str, message: str) -> None:
    family = running.family()
    killed = next(process for process in family if victim in process.cmdline()[0])
    killed.kill()
    status, out, err = running.end()
    assert (status, out) == (1, [])
    assert err == [f"error: {tmp_path / 'run'}: {message}. {GOES_ON[0].upper()}{GOES_ON[1:]}."]
    time.sleep(20)  # the agents of a killed raylet notice it by and by
    assert gone(family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_processes_that_draw_end_with_the_command(
    sample_store: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "pages"
    wanted = ("--count", "400", "--views", "9", "--workers", "2", "--preset", "laptop")
    command = Command("render", "--store", sample_store, "--out", str(out), *wanted)
    while not out.is_dir() or not list(out.glob("*.png")):
        assert command.process.poll() is None
        time.sleep(0.3)
    family = command.family()
    assert len(family) > 1
    os.killpg(command.process.pid, number) if number == signal.SIGINT else command.process.send_signal(number)
    status, _, err = command.end()
    if number != signal.SIGKILL:
        said = "interrupted: the pages written so far are complete; the same command draws all of them again"
        assert (status, err) == (130, [said])
    assert gone(family)


@pytest.mark.parametrize("after_cpu_s", [0.5, 1.0, 2.0])  # it cannot have finished by then
def test_an_interrupt_is_heard_whenever_it_comes(
    sample_tree: Path, tmp_path: Path, short: str, after_cpu_s: float
) -> None:
    folds = ("--validation-folds", "8", "--test-folds", "9")
    arguments = ("--source", "ptbxl", "--from", str(sample_tree), "--to", str(tmp_path / "store"), *folds)
    command = Command("prepare", *arguments, RAY_TMPDIR=short)
    command.worked(after_cpu_s)
    family = command.family()
    os.killpg(command.process.pid, signal.SIGINT)
    status, out, err = command.end()
    assert (status, out, err) == (130, [], ["interrupted: the store is not finished; the same command goes on"])
    assert gone(family)
