"""Mutated inputs by the thousand, each read in a watched child process.

A test gives two functions of its own module: ``make(number, folder)`` writes mutant ``number`` and returns its path, a pure
function of the number; ``attempt(path)`` reads it as the product does and returns ``"same"`` or ``"other"``, compared with
the input before it was mutated. One of our errors counts as ``"refused"``. Everything else is a finding: another
exception, more than 60 s, more than 2 GB, or a program started by the file.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

SECONDS = 60.0
MEMORY_MB = 2048
_STARTS_A_PROGRAM = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
_WORDS = (b"-1", b"0", b"nan", b"1e308", b"999999999999", b"../../x", b"\xff\xfe", b"[" * 50, b'"', b"\0")

Make = Callable[[int, Path], Path]
Attempt = Callable[[Path], str]


@dataclass
class Tally:
    """How many mutants ended how, and the findings with the mutant's number."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = self.outcomes.total()
        shares = ", ".join(f"{name} {count} ({count / total:.1%})" for name, count in sorted(self.outcomes.items()))
        return f"{self.name}: {total} mutants: {shares}"


TALLIES: list[Tally] = []
"""Of this session; printed at its end."""


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random changes: bits, bytes, numbers at the edge, pieces cut, doubled, exchanged or filled, the end lost."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not changed:
            return bytes(changed)
        start = int(rng.integers(len(changed)))
        stop = min(len(changed), start + int(2 ** rng.uniform(0, 9)))
        match int(rng.integers(8)):
            case 0:
                changed[start] ^= 1 << int(rng.integers(8))
            case 1:
                changed[start:stop] = rng.bytes(stop - start)
            case 2:
                del changed[start:stop]
            case 3:
                changed[start:start] = changed[start:stop]
            case 4:
                changed[start:stop] = bytes([int(rng.choice([0, 32, 255]))]) * (stop - start)
            case 5:
                edge = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                changed[start : start + 4] = edge.to_bytes(4, "little" if rng.random() < 0.5 else "big")
            case 6:
                changed[start:stop] = _WORDS[int(rng.integers(len(_WORDS)))]
            case _:
                del changed[start:]
    return bytes(changed)


def fuzz(name: str, make: Make, attempt: Attempt, count: int, folder: Path) -> Tally:
    """Read ``count`` mutants one after another; see the module's docstring.

    Args:
        name: Of what is mutated, for the summary.
        make: Writes mutant ``number`` into a folder; a function at the top of a module.
        attempt: Reads it; a function at the top of a module.
        count: Mutants.
        folder: To write into.

    Returns:
        The tally, which is also printed at the session's end.
    """
    tally, number = Tally(name), 0
    while number < count:
        number = _one_child(tally, make, attempt, range(number, count), folder)
    TALLIES.append(tally)
    return tally


def _one_child(tally: Tally, make: Make, attempt: Attempt, numbers: range, folder: Path) -> int:
    """Let a child read mutants until it is done or has to be replaced; the first number it has not read."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_read_all, args=(theirs, make, attempt, numbers, folder), daemon=True)
    child.start()
    theirs.close()
    number = numbers.start
    try:
        while number < numbers.stop:
            # the first answer waits for the child's imports too
            if not ours.poll(SECONDS * (3 if number == numbers.start else 1)):
                outcome, finding = "hang", f"no answer within {SECONDS:.0f} s"
            else:
                outcome, finding = ours.recv()
            tally.outcomes[outcome] += 1
            if finding:
                tally.findings.append(f"mutant {number}: {finding}")
            number += 1
            if outcome in ("hang", "memory"):
                break
    except EOFError:
        tally.outcomes["died"] += 1
        tally.findings.append(f"mutant {number}: its process ended")
        number += 1
    finally:
        child.kill()
        child.join()
    return number


def _read_all(answers: Connection, make: Make, attempt: Attempt, numbers: range, folder: Path) -> None:
    started: list[str] = []
    sys.addaudithook(lambda event, _: started.append(event) if event in _STARTS_A_PROGRAM else None)
    for number in numbers:
        path = make(number, folder)
        started.clear()  # what imports start is not the file's doing
        outcome, finding = _outcome(attempt, path)
        if started:
            outcome, finding = "ran code", f"started a program ({started[0]})"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if peak > MEMORY_MB:
            outcome, finding = "memory", f"{peak:.0f} MB"
        answers.send((outcome, finding))
        if outcome == "memory":  # a peak never falls: a fresh process reads the rest
            return


def _outcome(attempt: Attempt, path: Path) -> tuple[str, str | None]:
    from ecgscan_ray.errors import EcgscanError

    try:
        return attempt(path), None
    except EcgscanError as error:
        return ("refused", None) if "\n" not in str(error) else ("several lines", f"{str(error)[:300]!r}")
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
