"""Replacing a store: the old one stays valid until the new one is complete, since shards of each revision have other names."""

from __future__ import annotations

import re

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.store.manifest import MANIFEST_NAME, QUARANTINE_NAME, SPLITS, Manifest, read_manifest

STORE_FILE = re.compile(
    rf"((?P<split>{'|'.join(SPLITS)})-(?P<number>\d{{5}})(-p\d{{1,3}})?(-r(?P<revision>\d{{1,6}}))?\.parquet"
    rf"|{re.escape(QUARANTINE_NAME)}|{re.escape(MANIFEST_NAME)})(\.tmp-\w+)?"
)


def check_files(store: str, manifest: Manifest) -> None:
    """Check that every shard exists with the size in the manifest.

    Raises:
        StoreError: One is missing or has another size.
    """
    sizes = filesystem.list_sizes(store)
    for shard in manifest.shards:
        if sizes.get(shard.path) != shard.bytes:
            problem = f"has {sizes[shard.path]} bytes, not {shard.bytes}" if shard.path in sizes else "is missing"
            raise StoreError(
                problem, where=filesystem.join(store, shard.path), fix="Prepare it again with --overwrite."
            )


def file_names(manifest: Manifest) -> set[str]:
    """Names of all files of a store."""
    return {MANIFEST_NAME, QUARANTINE_NAME, *(shard.path for shard in manifest.shards)}


def files_to_keep(store: str) -> set[str]:
    """Files of the store that is to be replaced; all with the name of a store's file where its manifest is unreadable."""
    try:
        return file_names(read_manifest(store))
    except StoreError:
        return {name for name in filesystem.list_files(store) if STORE_FILE.fullmatch(name)}


def unused_revision(keep: set[str]) -> int:
    """The first revision number that no shard among these files has."""
    used = {int(match["revision"] or 0) for name in keep if (match := STORE_FILE.fullmatch(name)) and match["split"]}
    return next(number for number in range(len(used) + 1) if number not in used)


def next_numbers(keep: set[str]) -> dict[str, int]:
    """Split -> the first number that no shard among these files has."""
    matches = [match for name in keep if (match := STORE_FILE.fullmatch(name)) and match["split"]]
    return {
        split: max((int(match["number"]) for match in matches if match["split"] == split), default=-1) + 1
        for split in SPLITS
    }


def delete_other_files(store: str, keep: set[str]) -> None:
    """Delete files of other attempts and revisions."""
    for name in filesystem.list_files(store):
        if STORE_FILE.fullmatch(name) and name not in keep:
            filesystem.delete_file(filesystem.join(store, name))
