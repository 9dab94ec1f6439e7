"""The table of contents of a store: written last, so that a folder without one is not a store."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError, near_miss
from ecgscan_ray.filesystem import lease

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
WORK_NAME = "_prepare"
"""Folder of an unfinished ``prepare`` (``store.work``)."""
QUARANTINE_NAME = "quarantine.parquet"
SPLITS: tuple[str, ...] = ("train", "validation", "test")

MAX_ROW_GROUP = 2**20
"""Rows; far above what is written, so that a damaged number cannot exhaust memory."""
MAX_SHARD_BYTES = 2**40
_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]*")

_REVISION = re.compile(r"-r\d+(?=\.parquet$)")
"""Of a store that replaced another one in the same place: ``train-00000-r1.parquet``."""

Counts = dict[str, dict[str, dict[str, int]]]
"""split -> facet (``superclass``, ``language``, ``fs``, ``source``, ``patients``) -> value -> rows."""


class Shard(BaseModel):
    """One Parquet file of a store.

    Attributes:
        path: Relative to the store.
        split: ``train``, ``validation`` or ``test``.
        rows: Recordings in it.
        row_groups: Rows of each row group.
        bytes: Size of the file.
        sha256: Of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    split: str
    rows: int
    row_groups: list[int]
    bytes: int
    sha256: str


Settings = dict[str, int | float | str | list[int] | None]


class Addition(BaseModel):
    """Recordings that were added to a store (``prepare --add``).

    Attributes:
        source: Name of the source.
        licence: Of the recordings, where the source states it.
        settings: Arguments of ``prepare``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    licence: str | None = None
    settings: Settings = {}


class Origin(NamedTuple):
    """A source of a store's recordings.

    Attributes:
        source: Its name.
        licence: Of its recordings, where it states one.
        rows: Recordings of it.
    """

    source: str
    licence: str | None
    rows: int


class Manifest(BaseModel):
    """What a store holds.

    Attributes:
        schema_version: Of the rows; another version is refused.
        source: Name of the source, e.g. ``ptbxl``.
        licence: Of the recordings, where the source states it.
        settings: Arguments of ``prepare`` (rate, folds, seed, ...).
        additions: What was added later, from this source or another.
        shards: All Parquet files with rows, ordered by split and number.
        counts: Rows by split, facet and value.
        quarantined: Rejected recordings, by reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    source: str
    licence: str | None = None
    settings: Settings = {}
    additions: list[Addition] = []
    shards: list[Shard]
    counts: Counts = {}
    quarantined: dict[str, int] = {}

    @property
    def sources(self) -> list[str]:
        """Names of all sources, in the order in which they came."""
        return list(dict.fromkeys([self.source, *(addition.source for addition in self.additions)]))

    @property
    def origins(self) -> list[Origin]:
        """All sources, in the order in which they came."""
        licences = {addition.source: addition.licence for addition in self.additions} | {self.source: self.licence}
        rows = Counter[str]()
        for split in SPLITS:  # older stores have one source, and do not count it
            rows.update(self.counts.get(split, {}).get("source") or {self.source: self.rows(split)})
        return [Origin(source, licences[source], rows[source]) for source in self.sources]

    @property
    def licences(self) -> list[str]:
        """Licences of all sources that state one."""
        return list(dict.fromkeys(origin.licence for origin in self.origins if origin.licence))

    def digest(self) -> str:
        """sha256 of the content: equal for stores with equal rows in equal order, whatever their revision."""
        shards = [(_REVISION.sub("", s.path), s.split, s.row_groups, s.sha256) for s in self.shards]
        content = [self.schema_version, self.source, shards]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def shards_of(self, split: str) -> list[Shard]:
        """Shards of one split, in order.

        Raises:
            StoreError: There is no split of this name.
        """
        if split not in SPLITS:
            raise StoreError(f"no split named '{split}'", fix=near_miss(split, SPLITS))
        return [shard for shard in self.shards if shard.split == split]

    def rows(self, split: str) -> int:
        """Recordings in one split."""
        return sum(shard.rows for shard in self.shards_of(split))


def read_manifest(store_uri: str) -> Manifest:
    """The manifest of a store.

    Raises:
        StoreError: There is none, it is damaged, or it is of another schema version.
    """
    uri = filesystem.join(store_uri, MANIFEST_NAME)
    if not filesystem.exists(uri):
        if filesystem.exists(filesystem.join(store_uri, WORK_NAME, "job.json")):
            fix = "The same 'ecgscan prepare' command goes on with it."
            raise StoreError("not a store yet: 'ecgscan prepare' has not finished it", where=store_uri, fix=fix)
        raise StoreError("not a store: it has no manifest.json", where=store_uri, fix="Make one by 'ecgscan prepare'.")
    fix = "Prepare the store again."
    try:
        content = json.loads(filesystem.read_bytes(uri))
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            fix = "Prepare it again with this version."
            raise StoreError(f"schema version {str(version)[:20]}, not {SCHEMA_VERSION}", where=uri, fix=fix)
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise StoreError(f"damaged manifest ({_first_fault(error)})", where=uri, fix=fix) from None
    except (ValueError, AttributeError, RecursionError):
        raise StoreError("damaged manifest (no JSON object)", where=uri, fix=fix) from None
    faults = [f"{shard.path[:80]!r}: {fault}" for shard in manifest.shards if (fault := _fault(shard))]
    counts = Counter(shard.path for shard in manifest.shards)
    faults += [f"{path!r}: named {count} times" for path, count in counts.items() if count > 1]
    if faults:
        raise StoreError(f"damaged manifest ({faults[0]})", where=uri, fix=fix)
    return manifest


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(str(part)[:40] for part in fault['loc'])}: {fault['msg'][:100]}"


def _fault(shard: Shard) -> str | None:
    """What is wrong with a shard's entry: a path out of the store, an unknown split, inconsistent numbers."""
    if not all(_NAME.fullmatch(part) for part in shard.path.split("/")):
        return "not a path within the store"
    if shard.split not in SPLITS:
        return f"no split named {shard.split[:40]!r}"
    if not shard.row_groups or not all(1 <= rows <= MAX_ROW_GROUP for rows in shard.row_groups):
        return f"row groups of 1 to {MAX_ROW_GROUP} rows are allowed"
    if shard.rows != sum(shard.row_groups):
        return f"{shard.rows} rows, but {sum(shard.row_groups)} in its row groups"
    if not 0 < shard.bytes < MAX_SHARD_BYTES or not re.fullmatch("[0-9a-f]{64}", shard.sha256):
        return "no size or no digest"
    return None


def write_manifest(store_uri: str, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all, after all other files of the store.

    Raises:
        StoreError: It cannot be written, or another command took the store over.
    """
    lease.confirm(store_uri)
    text = manifest.model_dump_json(indent=1)
    filesystem.write_bytes_atomic(filesystem.join(store_uri, MANIFEST_NAME), text.encode())
