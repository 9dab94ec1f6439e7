import json

import cv2
import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.paper.write import OutputOptions, contact_sheet, file_name, write_pages
from tests.unit.paper.pages import sheet


@pytest.mark.parametrize(("channels", "image_format"), [(1, "png"), (3, "png"), (3, "jpg")])
def test_pages_and_truth_are_written(tmp_path, channels, image_format):
    recordings = [sheet(seed=i, name=f"set/a b{i}") for i in range(2)]
    recordings[0].signal_mv[2, 50:60] = np.nan
    counts = []
    page = PageConfig(height=336, width=448, channels=channels)
    paths = write_pages(recordings, OutputOptions(tmp_path / "new", image_format), page, 5, progress=counts.append)
    assert [p.name for p in paths] == [f"set_a_b{i}.{image_format}" for i in range(2)]
    assert counts == [2]
    assert cv2.imread(str(paths[0])).shape == (336, 448, 3)
    record = json.loads(paths[0].with_suffix(".json").read_text())
    strip = record["strips"][2]
    assert (strip["lead"], len(strip["trace_px"]), strip["trace_px"][55]) == ("III", 250, None)
    assert not list((tmp_path / "new").glob("*.part"))


def test_png_is_the_rendered_page_in_the_right_colours(tmp_path):
    from ecgscan_ray.paper import Renderer, page_key

    page, recording = PageConfig(channels=3, effects="clean"), sheet()
    path = write_pages([recording], OutputOptions(tmp_path, truth=False), page, 9)[0]
    image = Renderer(page).render([recording], np.array([page_key(9, 0, recording.id, 0)], np.uint64)).image[0]
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    assert list(tmp_path.iterdir()) == [path]


def test_grid_nodes_are_written_when_asked(tmp_path):
    recording = sheet()
    records = [
        json.loads(
            write_pages([recording], OutputOptions(tmp_path / str(grid), grid=grid), PageConfig(), 2)[0]
            .with_suffix(".json")
            .read_text()
        )
        for grid in (False, True)
    ]
    nodes = np.array(records[1].pop("grid_px"))
    assert records[0] == records[1]
    assert nodes.shape[0] in (43, 44) and nodes.shape[1] in (55, 56)
    assert np.all(np.diff(nodes[..., 0], axis=1) > 0) and np.all(np.diff(nodes[..., 1], axis=0) > 0)


def test_masks_number_the_strips(tmp_path):
    page, recording = PageConfig(height=336, width=448, effects="photo"), sheet()
    path = write_pages([recording], OutputOptions(tmp_path, masks=True), page, 2)[0]
    mask = cv2.imread(str(path.with_suffix(".mask.png")), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (336, 448)
    assert set(np.unique(mask)) == set(range(14))
    for number, strip in enumerate(json.loads(path.with_suffix(".json").read_text())["strips"], start=1):
        x, y = np.array(strip["trace_px"])[60:190].round().astype(int).T
        assert np.mean(mask[y, x] == number) > 0.5


def test_two_recordings_of_one_file_name_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="a/b: shares its file name with a_b"):
        write_pages([sheet(name="a_b"), sheet(name="a/b")], OutputOptions(tmp_path), PageConfig(), 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_pages([sheet()], OutputOptions(tmp_path / "file"), PageConfig(), 0)


@pytest.mark.parametrize(("name", "expected"), [("../../etc/x", "etc_x"), ("", "recording"), ("ptbxl/7", "ptbxl_7")])
def test_file_names_stay_in_their_folder(name, expected):
    assert file_name(name) == expected


def test_contact_sheet_shows_every_preset():
    image = contact_sheet([sheet(seed=i) for i in range(3)], PageConfig(), columns=2)
    assert image.shape[1] == 2 * 214
    assert image.shape[0] % 166 == 0
