"""A store that is replaced stays whole until the new one is: the shards of each revision have names of their own."""

from __future__ import annotations

import re

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.store.manifest import MANIFEST_NAME, QUARANTINE_NAME, SPLITS, Manifest, read_manifest

_STORE_FILE = re.compile(
    rf"((?P<split>{'|'.join(SPLITS)})-\d{{5}}(-r(?P<revision>\d{{1,6}}))?\.parquet"
    rf"|{re.escape(QUARANTINE_NAME)}|{re.escape(MANIFEST_NAME)})(\.tmp-\w+)?"
)


def check_files(store: str, manifest: Manifest) -> None:
    """Every shard is there and as long as the manifest says.

    Raises:
        StoreError: One is not.
    """
    sizes = filesystem.list_sizes(store)
    for shard in manifest.shards:
        if sizes.get(shard.path) != shard.bytes:
            problem = f"has {sizes[shard.path]} bytes, not {shard.bytes}" if shard.path in sizes else "is missing"
            raise StoreError(
                problem, where=filesystem.join(store, shard.path), fix="Prepare it again with --overwrite."
            )


def file_names(manifest: Manifest) -> set[str]:
    """All files of a store."""
    return {MANIFEST_NAME, QUARANTINE_NAME, *(shard.path for shard in manifest.shards)}


def files_to_keep(store: str) -> set[str]:
    """Files of the store that is to be replaced; all that look like ours where its manifest cannot be read."""
    try:
        return file_names(read_manifest(store))
    except StoreError:
        return {name for name in filesystem.list_files(store) if _STORE_FILE.fullmatch(name)}


def unused_revision(kept: set[str]) -> int:
    """The first number that no shard among these carries."""
    used = {int(match["revision"] or 0) for name in kept if (match := _STORE_FILE.fullmatch(name)) and match["split"]}
    return next(number for number in range(len(used) + 1) if number not in used)


def clear(store: str, kept: set[str]) -> None:
    """Delete what other attempts and revisions left."""
    for name in filesystem.list_files(store):
        if _STORE_FILE.fullmatch(name) and name not in kept:
            filesystem.delete_file(filesystem.join(store, name))
