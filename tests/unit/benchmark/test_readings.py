"""Pages are read once: what is kept of a part gives the same batches, and a damaged or other file is not taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray import text
from ecgscan_ray.benchmark import readings
from ecgscan_ray.benchmark.conditions import CONDITIONS, with_pages
from ecgscan_ray.benchmark.facts import parts_of
from ecgscan_ray.benchmark.readings import PageSource, ReadOnce, read_readings
from ecgscan_ray.store.manifest import read_manifest
from tests.records import recording
from tests.stores import write_store
from tests.tiny import tiny_config

CLEAN = CONDITIONS[1]
TOKENIZER = text.fit_tokenizer(["sinusrhythmus"], 100)


def test_what_was_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [recording(str(number), seed=number) for number in range(6)]
    manifest = read_manifest(write_store(tmp_path / "store", rows))
    (part,) = parts_of(manifest, "test")
    config = with_pages(tiny_config(model__input="leads"), CLEAN)
    maker, home = ReadOnce(config, TOKENIZER), str(tmp_path / "benchmark")
    maker.begin(home, CLEAN, part)
    first = [maker.make([rows[2]], range(1), [0]), maker.make([rows[5]], range(1, 2), [0])]
    maker.end()
    assert first[0]["read_bits"].any() and not np.array_equal(first[0]["read"], first[1]["read"])

    def refuse(*_: object) -> None:
        raise AssertionError("a page is drawn again")

    monkeypatch.setattr(readings.ReadPages, "make", refuse)
    again = ReadOnce(config, TOKENIZER)
    again.begin(home, CLEAN, part)
    for start, row in enumerate((rows[2], rows[5])):
        batch = again.make([row], range(start, start + 1), [0])
        for name in ("read", "read_bits", "page_ok", "signal", "recording_key"):
            assert np.array_equal(batch[name], first[start][name]), name
    again.end()

    source = PageSource(home, CLEAN, part, again.networks.digest, config.model.signal_fs, config.model.sig_len)
    assert read_readings(source) is not None
    other = PageSource(home, CLEAN, part, "other networks", config.model.signal_fs, config.model.sig_len)
    assert read_readings(other) is None
    path = Path(source.uri)
    path.write_bytes(path.read_bytes()[:-300])
    assert read_readings(source) is None
