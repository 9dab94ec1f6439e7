"""Repairs of reports, by source: a defect of one archive is regular text in another."""

from __future__ import annotations

import re

# Annotators appended their labels to some reports ("Edit: LVH 80, NDT"): not part of the report, and it leaks labels.
_ANNOTATION = re.compile(r"\bedit:.*", re.DOTALL | re.IGNORECASE)
# The recorder's signature: "4.46      unbestätigter bericht".
_SIGNATURE = re.compile(r"(?:\b\d\.\d\d\s+)?(?:un)?bestätigter bericht\b", re.IGNORECASE)
# A broken encoding left "#" for "ü": "f#r", "#bergang".
_BROKEN_U = re.compile(r"#(?=[^\W\d_])")


def repaired(report: str | None, source: str) -> str | None:
    """A report without defects of its archive.

    In PTB-XL's reports, the device's signature and the annotators' labels are removed and ``ü`` is restored. Idempotent, so
    that it can be applied to archives and to older stores.

    Args:
        report: As published.
        source: Name of the source.

    Returns:
        ``None`` where nothing is left.
    """
    text, previous = report or "", None
    while source == "ptbxl" and previous != text:  # taking one piece out can join two others
        previous = text
        text = _SIGNATURE.sub(" ", _ANNOTATION.sub(" ", _BROKEN_U.sub("ü", text))).strip()
    return text or None
