"""What came of the steps of ``prepare``, summed up to a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ecgscan_ray.recording.sources import Source
from ecgscan_ray.store.manifest import SPLITS, Addition, Counts, Manifest, Shard
from ecgscan_ray.store.work import PrepareSettings


def archive_settings(settings: PrepareSettings, digest: str) -> dict[str, Any]:
    """What a manifest keeps of the settings, with the digest of the archive's listing."""
    return asdict(settings) | {"archive": digest}


@dataclass
class Tally:
    """Running sums.

    Attributes:
        shards: New ones.
        counts: As in a manifest; ``patients`` has the recordings without a patient alone.
        reasons: Reason -> recordings put aside.
        first: One of these.
        put_aside: Of them, those before any was read.
        unknown: Recordings of the listing without a patient.
        skipped: Recordings of the listing that the store holds already.
        folds: Found in the listing.
    """

    shards: list[Shard] = field(default_factory=list)
    counts: Counts = field(default_factory=lambda: {split: {} for split in SPLITS})
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] | None = None
    put_aside: int = 0
    unknown: int = 0
    skipped: int = 0
    folds: set[int] = field(default_factory=set)

    def add_placed(self, outcome: Mapping[str, Any]) -> None:
        """What came of ``split_share`` or ``order_share``."""
        self._add_rejected(outcome)
        self.put_aside += sum(outcome["reasons"].values())
        self.unknown += outcome.get("unknown", 0)
        self.skipped += outcome.get("skipped", 0)
        self.folds.update(outcome.get("folds", ()))

    def add_shard(self, outcome: Mapping[str, Any]) -> None:
        """What came of ``write_shard``."""
        self._add_rejected(outcome)
        self.shards += [Shard(**shard) for shard in outcome["shards"]]
        add_counts(self.counts[outcome["split"]], outcome["counts"])
        add_counts(self.counts[outcome["split"]], {"patients": {"recordings_without": outcome["unknown"]}})

    def _add_rejected(self, outcome: Mapping[str, Any]) -> None:
        self.reasons.update(outcome["reasons"])
        self.first = self.first or next(iter(outcome["first"]), None)

    def why(self) -> str:
        """Counts by reason, with the details of one."""
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
        return f"{counts}; {self.first['id']}: {self.first['detail']}" if self.first else counts

    def manifest(
        self,
        source: Source,
        settings: PrepareSettings,
        digest: str,
        patients: Mapping[str, int],
        base: Manifest | None,
    ) -> Manifest:
        """The manifest of the new shards, and of the store that they are added to.

        Args:
            source: Of the new recordings.
            settings: Of the command.
            digest: Of the archive's listing.
            patients: Known ones in each split of the whole store.
            base: The store that is added to.
        """
        wanted = archive_settings(settings, digest)
        counts, reasons = self.counts, self.reasons
        if base:
            counts = {split: _with_source(base, split) for split in SPLITS}
            for split in SPLITS:
                add_counts(counts[split], self.counts[split])
            reasons = Counter(base.quarantined) + self.reasons
        for split in SPLITS:
            without = counts[split].get("patients", {}).get("recordings_without", 0)
            counts[split]["patients"] = {"known": patients[split], "recordings_without": without}
        new = Addition(source=source.name, licence=source.licence, settings=wanted)
        first = Addition(source=base.source, licence=base.licence, settings=base.settings) if base else new
        shards = [*(base.shards if base else ()), *self.shards]
        return Manifest(
            **first.model_dump(),
            additions=[*base.additions, new] if base else [],
            shards=sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.path)),
            counts={split: {facet: dict(sorted(v.items())) for facet, v in counts[split].items()} for split in SPLITS},
            quarantined=dict(sorted(reasons.items())),
        )


def add_counts(into: dict[str, dict[str, int]], counts: Mapping[str, Mapping[str, int]]) -> None:
    """Add counts by facet and value."""
    for facet, values in counts.items():
        facets = into.setdefault(facet, {})
        for value, count in values.items():
            facets[value] = facets.get(value, 0) + count


def _with_source(base: Manifest, split: str) -> dict[str, dict[str, int]]:
    """The counts of a split; older stores have one source, and do not count it."""
    counts = {facet: dict(values) for facet, values in base.counts.get(split, {}).items()}
    if "source" not in counts and base.rows(split):
        counts["source"] = {base.source: base.rows(split)}
    return counts
