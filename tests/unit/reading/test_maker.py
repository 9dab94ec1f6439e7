"""Samples are pure functions of recording, settings and key, as large as the stream is planned for, and never dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgscan_ray.config import Config, build, load, merge
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.reading.maker import SampleBatch, SampleMaker, samples_to_device
from tests.records import recording
from tests.tiny import TINY, TINY_READER, tiny_reader_config

CONFIG = tiny_reader_config()
ROWS = [recording(str(n), seed=n) for n in range(5)]


@pytest.fixture(scope="module")
def batch() -> SampleBatch:
    return SampleMaker(CONFIG).make(ROWS, range(5), [0] * 5)


def test_the_same_key_gives_the_same_bytes_in_whatever_batch(batch: SampleBatch) -> None:
    maker = SampleMaker(CONFIG)
    for n in (3, 0, 4, 1, 2):
        single = maker.make([ROWS[n]], [n], [0])
        for name, array in single.items():
            np.testing.assert_array_equal(array[0], batch[name][n], err_msg=name)  # type: ignore[literal-required]


@pytest.mark.parametrize("change", ["epoch", "view", "seed"])
def test_another_key_gives_other_samples(batch: SampleBatch, change: str) -> None:
    config = tiny_reader_config(seed=1) if change == "seed" else CONFIG
    other = SampleMaker(config).make(ROWS[:1], [0], [int(change == "epoch")], view=int(change == "view"))
    for name in ("coarse", "coarse_target", "page", "page_target", "row", "row_height"):
        assert not np.array_equal(other[name][0], batch[name][0], equal_nan=True), name  # type: ignore[literal-required]


def test_kinds_of_pages_are_mixed_by_their_shares() -> None:
    """A strip is told by its height: 112 mm, where a letter page has 216."""
    kinds = [{"share": 3, "page": {"effects": "clean"}}, {"share": 1, "page": {"effects": "clean", "paper": "strip"}}]
    config = tiny_reader_config(rectifier={"pages": kinds})
    made = SampleMaker(config).make([ROWS[0]] * 32, range(32), range(32))
    on_page, xy_mm = made["coarse_target"][:, :, 0] > 0, 100 * np.abs(made["coarse_target"][:, :, 1:])
    extents = (xy_mm * on_page[:, :, None]).max((3, 4)).min(2).max(1)  # half of the shorter side
    strips = int((extents < 80).sum())
    assert 3 <= strips <= 14, "8 of 32 are expected"
    assert extents[extents >= 80].min() > 90


def test_row_bytes_are_those_of_a_row(batch: SampleBatch) -> None:
    bytes_of_a_row = sum(array.nbytes for array in batch.values()) / len(ROWS)  # type: ignore[attr-defined]
    assert bytes_of_a_row <= CONFIG.row_bytes <= bytes_of_a_row + 1024
    assert load(Config, "rectifier").unit_rows == 6, "the largest divisor of 12 rows within 32 MB"


def test_a_recording_that_cannot_be_drawn_is_marked_and_the_others_stay(batch: SampleBatch) -> None:
    empty = recording("empty", signal_mv=np.full((12, 1000), np.nan, np.float32))
    made = SampleMaker(CONFIG).make([ROWS[0], empty, ROWS[1]], [0, 1, 2], [0] * 3)
    assert made["page_ok"].tolist() == [True, False, True]
    assert (made["coarse"][1] == 255).all() and np.isnan(made["row_height"][1]).all()
    np.testing.assert_array_equal(made["page"][[0, 2]], batch["page"][:2])


def test_on_the_device_pictures_are_bytes_with_channels_first(batch: SampleBatch) -> None:
    tensors = samples_to_device(batch, "cpu")
    assert tensors["coarse"].shape == (5, 4, 3, 384, 512) and tensors["coarse"].dtype == torch.uint8
    assert tensors["page"].shape == (5, 3, 320, 320) and tensors["row"].shape == (5, 3, 240, 1024)
    np.testing.assert_array_equal(tensors["coarse"][2, 1, :, 7, 9].numpy(), batch["coarse"][2, 1, 7, 9])


def test_grey_pages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"page\.channels: the reader's networks take RGB"):
        SampleMaker(tiny_reader_config(page__channels=1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"page": {"height": 1}}, r"rectifier\.pages\.0\.page\.height: .*greater than or equal to 64"),
        ({"page": {"hight": 100}}, r"rectifier\.pages\.0\.page\.hight: Extra inputs"),
        ({"share": 0}, r"rectifier\.pages\.0\.share"),
    ],
)
def test_a_kind_that_is_no_page_is_refused_in_one_line(kind: dict, message: str) -> None:
    changes = TINY_READER | {"rectifier": {"pages": [{"share": 1, **kind}]}}
    with pytest.raises(ConfigError, match=message) as caught:
        build(Config, merge(TINY, changes), where="test")
    assert "\n" not in str(caught.value)


def test_other_effects_come_with_their_own_probabilities() -> None:
    kinds = [{"share": 1, "page": {"effects": "fax"}}, {"share": 1, "page": {"paper": "a4"}}]
    config = tiny_reader_config(page__effect_probabilities={"fold": 0.5}, rectifier={"pages": kinds})
    fax, a4 = (page for _, page in config.page_kinds())
    assert fax.effect_probabilities == {} and a4.effect_probabilities == {"fold": 0.5} and a4.paper == "a4"
