"""One page from Python: the reader with its networks, and what a reading is good for."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import wfdb
from matplotlib.colors import to_hex
from PIL import Image

from ecgscan_ray.data import reader_weights
from ecgscan_ray.digitise import digitise_pages, read_page
from ecgscan_ray.errors import InputError
from ecgscan_ray.reading.network import RowNet
from ecgscan_ray.reading.reader import Networks
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.rectification.networks import CoarseNet, PageNet
from tests.fake_reader import reading
from tests.rendered import clean_page


def test_a_reading_is_a_record_a_table_and_a_figure(tmp_path: Path) -> None:
    found = reading((120, 200))
    signal_mv, _ = found.signal_mv()
    header = found.to_wfdb(tmp_path / "new" / "page", ["source: p\u00e4ge.png"])
    record = wfdb.rdrecord(str(header.with_suffix("")))
    assert record.comments[1] == "source: p\\xe4ge.png" and "gain: 10 mm/mV (pulse)" in record.comments
    table = found.to_dataframe()
    assert list(table.columns) == list(LEADS) and table.index.name == "time_s"
    np.testing.assert_array_equal(table.to_numpy().T, signal_mv)
    lines = found.plot().axes[0].lines
    assert len(lines) == 24 and to_hex(lines[1].get_color()) == "#1d2733"
    np.testing.assert_array_equal(np.isnan(lines[23].get_ydata()), np.isnan(signal_mv[11]))


def test_the_networks_are_loaded_once_and_read_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load_networks(path: str | None = None) -> Networks:
        loaded.append(path)
        return Networks(CoarseNet().eval(), PageNet().eval(), RowNet().eval())

    weights = types.ModuleType("ecgscan_ray.reading.weights")
    weights.load_networks = load_networks  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, weights.__name__, weights)
    Image.new("L", (300, 200), 250).save(tmp_path / "page.png")
    for page in (tmp_path / "page.png", np.full((200, 300, 3), 250, np.uint8)):
        with pytest.raises(InputError, match=r"^no (ECG page|rows of an ECG) found"):
            read_page(page, weights="mine")
    assert loaded == ["mine"]
    done = digitise_pages(tmp_path / "page.png", tmp_path / "out", workers=0)
    assert (done.refused, loaded) == (1, ["mine", None])
    with pytest.raises(InputError, match="--layout"):
        read_page(tmp_path / "page.png", layout="3x5")


def test_without_weights_one_line_says_so(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 250).save(tmp_path / "page.png")
    with pytest.raises(InputError, match=r"gone: no weights of a page reader here.*ecgscan rectifier"):
        read_page(tmp_path / "page.png", weights=str(tmp_path / "gone"))


def test_grey_pictures_and_transparent_ones_are_read_like_others(tmp_path: Path) -> None:
    image = Image.fromarray(clean_page().image)
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("RGBA").save(tmp_path / "rgba.png")
    for name in ("grey.png", "rgba.png"):
        found = read_page(tmp_path / name, weights=str(reader_weights()))
        assert (found.layout.value, found.speed.value, found.gain.value, found.turns) == ("3x4+1", 25, 10, 0)
        assert np.isfinite(found.signal_mv()[0]).any(1).all()


def test_a_huge_file_and_a_damaged_one_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("L", (10_000, 10_000), 255).save(tmp_path / "huge.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "huge.png").read_bytes()[:2000])
    for name, message in (("huge.png", "more than 70 megapixels"), ("half.png", r"half\.png")):
        with pytest.raises(InputError, match=message) as caught:
            read_page(tmp_path / name)
        assert "\n" not in str(caught.value)
