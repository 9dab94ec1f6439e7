"""The training set of the PhysioNet/CinC Challenges 2020 and 2021: ``training/georgia/g1/E00001.hea`` and so on.

Codes are named by the challenge's tables (``dx_mapping_scored.csv``, ``dx_mapping_unscored.csv``), which lie beside its
scoring program and not in the archive: put them into the archive's folder. The set holds PTB-XL, and all of ``chapman``, under
other names: take each once.
"""

from __future__ import annotations

from ecgscan_ray.recording.sources.headers import HeaderArchive
from ecgscan_ray.recording.sources.snomed import CodeTable

SUBSETS = (
    "chapman_shaoxing",
    "cpsc_2018",
    "cpsc_2018_extra",
    "georgia",
    "ningbo",
    "ptb",
    "ptb-xl",
    "st_petersburg_incart",
)
_CODES = ("snomedctcode", "snomed ct code")


class CinC2021(HeaderArchive):
    """The challenge's records; ``details["subset"]`` is the archive that a record comes from."""

    name = "cinc2021"
    tables = (CodeTable("dx_mapping_scored.csv", _CODES, "dx"), CodeTable("dx_mapping_unscored.csv", _CODES, "dx"))

    def details(self, path: str) -> dict[str, str]:
        """The subset, from the folder."""
        subset = next((part for part in path.split("/") if part in SUBSETS), None)
        return {"subset": subset} if subset else {}
