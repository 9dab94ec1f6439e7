"""A small store of recordings, written without Ray."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from ecgscan_ray import filesystem
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, Manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter


def write_store(folder: Path, recordings: Sequence[Recording], row_group: int = 8) -> str:
    """The recordings in turn in the three splits; gives the store's URI."""
    folder.mkdir()
    shards = []
    for number, split in enumerate(SPLITS):
        writer = ShardWriter(str(folder), split, 0)
        rows = recordings[number::3]
        for start in range(0, len(rows), row_group):
            writer.add(rows[start : start + row_group])
        shards.append(writer.close())
    write_manifest(str(folder), Manifest(source="made-up", shards=[shard for shard in shards if shard]))
    return str(folder)


def part_of_sample(sample_tree: Path, folder: Path, count: int) -> list[dict[str, str]]:
    """Copy the tree with every n-th row only."""
    with open(sample_tree / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: len(rows) // count][:count]
    for row in rows:
        for ending in (".hea", ".dat"):
            target = folder / (row["filename_lr"] + ending)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sample_tree / (row["filename_lr"] + ending), target)
    shutil.copyfile(sample_tree / "scp_statements.csv", folder / "scp_statements.csv")
    with open(folder / "ptbxl_database.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def upload(folder: Path, uri: str) -> str:
    """Copy a folder's files into a bucket; gives the URI there."""
    for name in filesystem.list_files(str(folder), recursive=True):
        filesystem.write_bytes_atomic(filesystem.join(uri, name), (folder / name).read_bytes())
    return uri
