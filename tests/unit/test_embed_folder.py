"""Folders with odd files, files of several pages, and places to write."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray import embed_folder as module
from ecgscan_ray.cli import app
from ecgscan_ray.config import PageConfig
from ecgscan_ray.embed_folder import embed_folder
from ecgscan_ray.encoder import fit_page
from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import read_picture


class Means:
    """An encoder of three features: an eighth of the page each, as far as these tests look."""

    feature_dim = embed_dim = 3

    def preprocess(self, image):
        return fit_page(read_picture(image), PageConfig(height=64, width=96), [255])

    def embed(self, images, *, projected, batch_size):
        assert batch_size == len(images)
        return np.array([(page.mean(), page[:32].mean(), page[32:].mean()) for page in images], np.float32)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(module, "load_encoder", lambda path, device="cpu": Means())


def picture(value, size=(60, 40)):
    return Image.new("L", size, value)


def rows(path):
    return {row["path"]: row for row in pq.read_table(path).to_pylist()}


def test_every_page_has_a_row_and_bad_files_are_named(tmp_path):
    source = tmp_path / "photos"
    (source / "ward").mkdir(parents=True)
    for number in range(5):
        picture(10 * number).save(source / "ward" / f"{number}.png")
    picture(100).save(source / "two.tif", save_all=True, append_images=[picture(200)])
    (source / "torn.png").write_bytes((source / "ward" / "0.png").read_bytes()[:60])
    (source / "notes.txt").write_text("hello")
    (source / ".hidden").write_text("x")
    os.mkfifo(source / "pipe")
    result = embed_folder("encoder", source, tmp_path / "out" / "features.parquet", batch_size=2)
    assert result.embedded == 7
    assert set(result.bad) == {"torn.png", "notes.txt", "pipe"}
    table = rows(tmp_path / "out" / "features.parquet")
    assert list(table) == [
        "notes.txt",
        "pipe",
        "torn.png",
        "two.tif",
        "two.tif#2",
        *(f"ward/{number}.png" for number in range(5)),
    ]
    for name, row in table.items():
        assert (row["embedding"] is None) == (row["error"] is not None) == (name in result.bad)
    assert [table[name]["embedding"][0] for name in ("two.tif", "two.tif#2", "ward/3.png")] == [100, 200, 30]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["features.parquet"]


def test_names_of_any_kind_linked_folders_and_rings(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (tmp_path / "elsewhere").mkdir()
    picture(1).save(tmp_path / "elsewhere" / "linked.png")
    (source / "there").symlink_to(tmp_path / "elsewhere")
    (source / "ring").symlink_to(source)
    (source / "nowhere.png").symlink_to(tmp_path / "none")
    for name in (b"m\xfcller.png", "日本 1.png".encode(), b"a\nb.png"):
        picture(2).save(source / "x.png")
        os.rename(source / "x.png", os.fsencode(source) + b"/" + name)
    result = embed_folder("encoder", source, tmp_path / "out.parquet")
    assert set(rows(tmp_path / "out.parquet")) == {
        "m\\xfcller.png",
        "日本 1.png",
        "a\\nb.png",
        "there/linked.png",
        "nowhere.png",
    }
    assert result.bad == {"nowhere.png": "no such file"}


def test_one_picture_alone(tmp_path):
    picture(7).save(tmp_path / "page.png")
    assert embed_folder("encoder", tmp_path / "page.png", tmp_path / "out.parquet").embedded == 1
    assert rows(tmp_path / "out.parquet")["page.png"]["embedding"] == [7, 7, 7]


def test_what_an_earlier_run_wrote_into_the_folder_is_no_page(tmp_path):
    picture(7).save(tmp_path / "page.png")
    for name in ("first.parquet", "second.parquet", "second.parquet"):
        assert embed_folder("encoder", tmp_path, tmp_path / name).bad == {}
    (tmp_path / "other.parquet").write_bytes(b"PAR1 no table of ours")
    assert set(embed_folder("encoder", tmp_path, tmp_path / "third.parquet").bad) == {"other.parquet"}


def test_ground_truth_beside_a_picture_is_passed_over(tmp_path):
    (tmp_path / "pages").mkdir()
    for name in ("ptbxl_1.png", "a.b.JPG", "ptbxl_1.mask.png", "lonely.mask.png"):
        picture(5).save(tmp_path / "pages" / name)
    for name in ("ptbxl_1.json", "a.b.json", "ptbxl_1.txt", "alone.json"):
        (tmp_path / "pages" / name).write_text("{}")
    result = embed_folder("encoder", tmp_path / "pages", tmp_path / "features.parquet")
    assert result.embedded == 3, "a mask without its picture is a picture"
    assert set(result.bad) == {"ptbxl_1.txt", "alone.json"}
    assert pq.read_table(tmp_path / "features.parquet").num_rows == 5


def test_embedding_an_empty_or_missing_folder_fails_plainly(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(InputError, match=r"no such folder or file|no files in this folder"):
            embed_folder("encoder", folder, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    picture(7).save(tmp_path / "page.png")
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "load_encoder", lambda *_, **__: pytest.fail("begun"))
    for out, line in ((tmp_path / "file" / "out.parquet", "cannot be written"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=line):
            embed_folder("encoder", tmp_path / "page.png", out)


def test_a_full_disk_keeps_the_table_of_before(tmp_path, monkeypatch):
    picture(7).save(tmp_path / "page.png")
    out = tmp_path / "out.parquet"
    embed_folder("encoder", tmp_path / "page.png", out)
    before = out.read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", no_space)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        embed_folder("encoder", tmp_path / "page.png", out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"page.png", "out.parquet"}


def test_the_command_says_little_of_many_and_fails_where_nothing_was_embedded(tmp_path: Path):
    for number in range(25):
        (tmp_path / f"{number}.txt").write_text("no picture")
    picture(7).save(tmp_path / "page.png")
    done = CliRunner().invoke(app, ["embed", "encoder", str(tmp_path), str(tmp_path / "out.parquet")])
    assert done.exit_code == 0
    assert "1 pages embedded, 25 skipped" in done.stdout
    assert done.stderr.count("skipped ") == 10
    assert "... and 15 more: column 'error' of" in done.stderr
    (tmp_path / "page.png").unlink()
    none = CliRunner().invoke(app, ["embed", "encoder", str(tmp_path), str(tmp_path / "out.parquet")])
    assert none.exit_code == 2
    assert "no page could be embedded" in none.stderr
