"""A folder is embedded piece by piece: what an interrupted command has made is taken up, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ecgscan_ray.config import PageConfig
from ecgscan_ray.encoder import embed_folder, parts
from ecgscan_ray.encoder import folder as folder_room
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.encoder.parts import cut
from ecgscan_ray.errors import StoreError, UnreachableError
from ecgscan_ray.filesystem.lease import acquire
from ecgscan_ray.pictures import PictureFile, pictures_under


class Means(torch.nn.Module):
    """Stands for a trained encoder: the mean of a page. Fails at a batch with the mean ``fails_at``."""

    feature_dim, embed_dim = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[int] = []
        self.fails_at: int | None = None

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        means = image.float().mean((1, 2, 3))
        shades = [round(float(mean)) for mean in means]
        if self.fails_at in shades:
            raise KeyboardInterrupt
        self.seen += shades
        features = self.weight * means[:, None]
        return {"features": features, "image_features": -features}


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Means:
    module = Means()
    encoder = Encoder(module, PageConfig(height=64, width=64))  # type: ignore[arg-type]
    monkeypatch.setattr(folder_room, "load_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr(parts, "MIN_FILES", 4)
    return module


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Ten pages of the shades 0, 10, ..., in pieces of 4, 4 and 2; one cannot be read."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (64, 64), 10 * number).save(folder / f"{number}.png")
    (folder / "5.png").write_bytes(b"")
    return folder


def interrupted(means: Means, pages: Path, out: Path, fails_at: int = 80) -> None:
    means.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        embed_folder("e", pages, out)
    means.fails_at = None
    means.seen.clear()


def part_names(out: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in Path(f"{out}.parts").iterdir())


def test_an_interrupted_call_goes_on_and_gives_the_same_table(means: Means, pages: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    embed_folder("e", pages, whole)
    interrupted(means, pages, out)
    assert part_names(out) == ["00000", "00001"] and not out.exists()
    calls: list[tuple[int, int]] = []
    done = embed_folder("e", pages, out, progress=lambda *call: calls.append(call))
    assert means.seen == [80, 90]
    assert calls == [(8, 10), (9, 10), (10, 10)]
    assert (done.embedded, done.num_files_before) == (9, 8)
    assert done.errors == {"5.png": "an empty file"}
    assert pq.read_table(out).equals(pq.read_table(whole))
    assert {path.name for path in tmp_path.iterdir()} == {"pages", "out.parquet", "whole.parquet"}


def test_all_parts_may_be_there(means: Means, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(folder_room, "join_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed_folder("e", pages, out)
    means.seen.clear()
    assert embed_folder("e", pages, out).num_files_before == 10
    assert means.seen == [] and pq.read_table(out).num_rows == 10


def test_parts_of_other_pictures_weights_or_features_are_made_again(means: Means, pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    interrupted(means, pages, out)
    Image.new("L", (64, 64), 200).save(pages / "1.png")
    embed_folder("e", pages, out)
    assert means.seen == [0, 200, 20, 30, 80, 90], "of the piece with the picture that changed"
    interrupted(means, pages, out)
    embed_folder("e", pages, out, projected=True)
    assert len(means.seen) == 9
    interrupted(means, pages, out)
    means.weight.data *= 2
    assert embed_folder("e", pages, out).num_files_before == 0
    assert pq.read_table(out)["embedding"].to_pylist()[2] == [40]
    assert {path.name for path in tmp_path.iterdir()} == {"pages", "out.parquet"}


def test_batches_do_not_cross_pieces(
    means: Means, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = Means.forward

    def counted(self: Means, image: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(Means, "forward", counted)
    embed_folder("e", pages, tmp_path / "out.parquet", batch_size=3)
    assert sizes == [3, 1, 2, 1, 2], "features do not depend on which pieces were there before"


def test_rows_are_joined_in_groups_and_in_order(means: Means, pages: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROW_GROUP_ROWS", 6)
        embed_folder("e", pages, tmp_path / "out.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [8, 2]
    assert file.read()["path"].to_pylist() == [f"{number}.png" for number in range(10)]


def test_a_damaged_part_is_removed_and_made_again(means: Means, pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    interrupted(means, pages, out)
    first = min(Path(f"{out}.parts").glob("00000*"))
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"00000-\w+\.parquet: was damaged, and is removed"):
        embed_folder("e", pages, out)
    assert not out.exists()
    means.seen.clear()
    assert embed_folder("e", pages, out).num_files_before == 6
    assert means.seen == [0, 10, 20, 30]


def test_a_second_command_on_the_same_output_is_refused(means: Means, pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    acquire(f"{out}.parts", "ecgscan embed")
    with pytest.raises(StoreError, match="in use by 'ecgscan embed'"):
        embed_folder("e", pages, out)
    assert means.seen == []


def test_an_outage_is_no_fault_of_the_files(
    means: Means, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: PictureFile) -> bytes:
        raise UnreachableError("its server does not answer", where=file.uri)

    monkeypatch.setattr(PictureFile, "read", fail)
    with pytest.raises(UnreachableError, match=r"0\.png"):
        embed_folder("e", pages, tmp_path / "out.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"pages"}


def test_what_a_killed_command_leaves_is_no_picture_and_goes(means: Means, pages: Path) -> None:
    folder = pages / "out.parts"
    folder.mkdir()
    (folder / "00000-0.parquet.tmp-0").write_bytes(b"PAR1")
    assert embed_folder("e", pages, pages / "out").embedded == 9
    assert not folder.exists()


def test_pieces_are_of_32_to_256_files_and_name_what_they_are_made_of() -> None:
    def files(count: int) -> list[PictureFile]:
        return [PictureFile("s3://bucket/pages", f"{number}.png", "9 bytes") for number in range(count)]

    for count, sizes in ((1, {1}), (70, {32, 6}), (40_000, {40}), (300_000, {256, 300_000 % 256})):
        pieces = cut(files(count), "digest", False)
        assert {len(piece.names) for piece in pieces} == sizes
        assert [name for piece in pieces for name in piece.names] == [file.name for file in files(count)]
    first, second = (piece.part for piece in cut(files(64), "digest", False))
    assert (first[:6], second[:6]) == ("00000-", "00001-")
    changed = [*files(63), PictureFile("s3://bucket/pages", "63.png", "10 bytes")]
    again = [piece.part for piece in cut(changed, "digest", False)]
    assert again[0] == first and again[1] != second
    assert {first}.isdisjoint(piece.part for piece in cut(files(64), "other", False) + cut(files(64), "digest", True))


def test_a_picture_in_a_bucket_has_the_version_of_the_listing(s3_server: str, tmp_path: Path) -> None:
    from ecgscan_ray.filesystem import join, write_bytes_atomic

    for name in ("a.png", "ward/b.png", "ward/b.json", ".hidden/c.png", "d.parquet"):
        write_bytes_atomic(join(s3_server, "versions", name), b"12345")
    files = pictures_under(join(s3_server, "versions"))
    assert [file.name for file in files] == ["a.png", "ward/b.png"]
    assert all(file.version().startswith("5 bytes, ") for file in files)
    alone = pictures_under(join(s3_server, "versions", "a.png"))
    assert [file.name for file in alone] == ["a.png"] and alone[0].version().startswith("5 bytes, ")
    (tmp_path / "e.png").write_bytes(b"123")
    local = pictures_under(str(tmp_path))[0]
    before = local.version()
    os.utime(tmp_path / "e.png", (0, 0))
    assert before.startswith("3 bytes, ") and local.version() == "3 bytes, 0"
