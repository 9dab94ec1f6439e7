"""What the checks of recordings find: each fault put into 500 recordings of the shipped sample, and the false alarms without.

python benchmarks/recording_faults.py [STORE]

With a store, its recordings are taken instead. The sample's recordings are among those that the limits were set on.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscan_ray.data.unpack import FS, SAMPLE
from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.schema import unpack_signals
from ecgscan_ray.store.shards import iterate_rows

COUNT = 500
ONE, TWO, THREE, AVR, AVL, AVF = range(6)
Signal = NDArray[np.float32]
Fault = Callable[[Signal, np.random.Generator], Signal]


def scaled(factor: float, leads: range | None = None) -> Fault:
    """All leads, or one drawn from ``leads``, times ``factor``."""

    def apply(signal: Signal, rng: np.random.Generator) -> Signal:
        at = slice(None) if leads is None else int(rng.choice(leads))
        signal[at] *= np.float32(factor)
        return signal

    return apply


def in_order(*order: int) -> Fault:
    """The first leads taken from others' places."""
    return lambda signal, _: signal[[*order, *range(len(order), 12)]]


def missing(signal: Signal, rng: np.random.Generator) -> Signal:
    start = int(rng.integers(signal.shape[1] * 6 // 10))
    signal[rng.integers(12), start : start + signal.shape[1] * 4 // 10] = np.nan
    return signal


def constant(signal: Signal, rng: np.random.Generator) -> Signal:
    signal[rng.integers(6, 12)] = np.float32(rng.normal())
    return signal


def still(signal: Signal, rng: np.random.Generator) -> Signal:
    lead, start = rng.integers(6, 12), int(rng.integers(signal.shape[1] * 6 // 10))
    signal[lead, start : start + signal.shape[1] * 4 // 10] = signal[lead, start]
    return signal


def clipped(share: float) -> Fault:
    """A chest lead cut at a share of its greatest height from its middle."""

    def apply(signal: Signal, rng: np.random.Generator) -> Signal:
        lead = int(rng.integers(6, 12))
        middle = np.median(signal[lead])
        limit = np.abs(signal[lead] - middle).max() * share
        signal[lead] = np.clip(signal[lead], np.round(middle - limit, 3), np.round(middle + limit, 3))
        return signal

    return apply


def exchanged(signal: Signal, rng: np.random.Generator) -> Signal:
    pair = rng.choice(6, 2, replace=False)
    signal[pair] = signal[pair[::-1]]
    return signal


def inverted(signal: Signal, rng: np.random.Generator) -> Signal:
    signal[rng.integers(6)] *= -1
    return signal


def electrodes(signs: tuple[int, int, int], order: tuple[int, ...]) -> Fault:
    """Limb leads as two exchanged electrodes record them."""

    def apply(signal: Signal, _: np.random.Generator) -> Signal:
        signal[:6] = signal[list(order)]
        signal[:3] *= np.array(signs, np.float32)[:, None]
        return signal

    return apply


FAULTS: dict[str, Fault] = {
    "none (false alarms)": lambda signal, _: signal,
    "40 % of a lead missing": missing,
    "a chest lead constant": constant,
    "a chest lead still for 40 % of the time": still,
    "a chest lead cut at 0.3 of its height": clipped(0.3),
    "a chest lead cut at 0.5": clipped(0.5),
    "a chest lead cut at 0.7": clipped(0.7),
    "two limb leads exchanged in the file": exchanged,
    "aVF before aVL, read by position": in_order(ONE, TWO, THREE, AVR, AVF, AVL),
    "aVR, aVL, aVF before I, II, III": in_order(AVR, AVL, AVF, ONE, TWO, THREE),
    "a limb lead inverted": inverted,
    "arm electrodes exchanged": electrodes((-1, 1, 1), (ONE, THREE, TWO, AVL, AVR, AVF)),
    "right arm and left leg exchanged": electrodes((-1, -1, -1), (THREE, TWO, ONE, AVF, AVL, AVR)),
    "left arm and left leg exchanged": electrodes((1, 1, -1), (TWO, ONE, THREE, AVR, AVF, AVL)),
    "V1 and V6 exchanged": in_order(*range(6), 11, 7, 8, 9, 10, 6),
    "uV taken for mV": scaled(1000),
    "all leads times 10": scaled(10),
    "all leads times 5": scaled(5),
    "all leads times 2": scaled(2),
    "all leads divided by 2": scaled(1 / 2),
    "all leads divided by 4.88": scaled(1 / 4.88),
    "all leads divided by 10": scaled(1 / 10),
    "a limb lead times 2": scaled(2, range(6)),
    "a limb lead times 1.1": scaled(1.1, range(6)),
    "a chest lead times 10": scaled(10, range(6, 12)),
    "a chest lead divided by 10": scaled(1 / 10, range(6, 12)),
    "a chest lead times 2": scaled(2, range(6, 12)),
}


def recordings(store: str | None) -> Iterator[Recording]:
    """Those of a store, or the sample's, whose steps are 1 uV."""
    if store is not None:
        for split in SPLITS:
            yield from iterate_rows(store, read_manifest(store), split)
        return
    for number, signal in enumerate(unpack_signals(pq.read_table(SAMPLE))):
        yield Recording(str(number), "sample", None, signal, FS, steps_per_mv=1000.0)


def outcome(recording: Recording) -> str:
    """``rejected: REASON``, ``noted`` or nothing."""
    try:
        return "noted" if check(recording) else ""
    except RecordingError as error:
        return f"rejected: {error.reason}"


def main() -> None:
    whole = list(recordings(sys.argv[1] if len(sys.argv) > 1 else None))
    rng = np.random.default_rng(0)
    drawn = [whole[k] for k in rng.permutation(len(whole))]
    drawn = list(itertools.islice((heart for heart in drawn if not outcome(heart).startswith("rejected")), COUNT))
    before = Counter(outcome(heart) for heart in whole)
    print(f"{len(whole)} recordings as they are: {dict(before)}; faults put into {len(drawn)} that pass\n")
    print("| fault | rejected | noted | reasons |\n|---|---|---|---|")
    for name, fault in FAULTS.items():
        found = Counter(
            outcome(dataclasses.replace(heart, signal_mv=fault(heart.signal_mv.copy(), rng))) for heart in drawn
        )
        reasons = {key.removeprefix("rejected: "): count for key, count in found.items() if key.startswith("rejected")}
        share = [sum(reasons.values()) / len(drawn), found["noted"] / len(drawn)]
        text = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        print(f"| {name} | {share[0]:.1%} | {share[1]:.1%} | {text} |")


if __name__ == "__main__":
    main()
