"""Listing an archive keeps nothing of it in memory, however many recordings it has."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item, open_source
from ecgscan_ray.recording.sources.disk_dict import DiskDict
from ecgscan_ray.recording.sources.folder_files import Found
from ecgscan_ray.recording.sources.table import Row
from tests.unit.recording.test_sources import ROW, ptbxl_tree

COUNT = 1000


class Simulated(ArchiveFiles):
    """A folder with so many headers, of which only their table is there."""

    def names(self, suffixes: tuple[str, ...]) -> Iterator[str]:
        return (f"p{k // 100:05d}/{k:08d}.hea" for k in range(COUNT))

    def read_each(self, paths: Iterator[str], limit: int | None = None) -> Iterator[bytes | None]:  # type: ignore[override]
        return (f"a 1 500 5000\n{path[-10:-4]}.dat 16\n".encode() for path in paths)


def write_folder(folder: Path) -> None:
    rows = (f"p{k // 100:05d}/{k:08d},{k // 4},Sinus rhythm. Borderline ECG,NORM" for k in range(COUNT))
    (folder / "recordings.csv").write_text("\n".join(["record,patient_id,report,labels", *rows]))


class Remote(Simulated):
    """The same on a server: headers are kept from the listing."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_local = False


@pytest.mark.parametrize(("kind", "archive"), [("folder", Simulated), ("folder", Remote), ("ptbxl", Simulated)])
def test_few_items_are_in_memory(kind: str, archive: type[Simulated], tmp_path: Path) -> None:
    if kind == "folder":
        write_folder(tmp_path)
    else:
        ptbxl_tree(tmp_path, *(ROW.replace("1,", f"{k},", 1) for k in range(1, COUNT + 1)))
    items = iter(open_source(kind, 100).list_records(archive(tmp_path)))
    first = next(items)
    alive = sum(isinstance(thing, Row | Item | Found) for thing in gc.get_objects())
    assert alive < (60 if archive is Remote else 20)  # threads are ahead
    listed = [first, *items]
    assert len({item.id for item in listed}) == COUNT
    assert all(item.header.startswith("a 1 500") == (archive is Remote) for item in listed)


def test_a_dictionary_on_disk() -> None:
    names = ["b", "a\udcff", "ä", "a", "\U0001f600", ""]
    one, other = DiskDict[int](), DiskDict[int]()
    assert not one and "a" not in one
    for number, name in enumerate(names):
        one[name] = number
    one["b"] = 7
    other["a"] = 8
    assert list(one) == [name for name, _ in one.stream()] == sorted(names) and len(one) == len(names)
    assert (one["b"], one.get("c"), one["a\udcff"], one["a"]) == (7, None, 1, 3)
    del one["b"]
    with pytest.raises(KeyError):
        one["b"]
    with pytest.raises(KeyError):
        del one["b"]
