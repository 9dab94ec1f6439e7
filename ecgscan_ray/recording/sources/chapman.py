"""The 12-lead arrhythmia database of Chapman, Shaoxing and Ningbo as PhysioNet publishes it (``ecg-arrhythmia``):
``WFDBRecords/01/010/JS00001.hea`` and ``.mat``, ``ConditionNames_SNOMED-CT.csv``.
"""

from __future__ import annotations

from ecgscan_ray.recording.sources.headers import HeaderArchive
from ecgscan_ray.recording.sources.snomed import CodeTable


class Chapman(HeaderArchive):
    """Its records; one patient has one, says the publication, and the headers name none."""

    name = "chapman"
    tables = (CodeTable("ConditionNames_SNOMED-CT.csv", ("snomed_ct",), "full name"),)
