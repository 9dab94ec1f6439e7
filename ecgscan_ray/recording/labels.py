"""From SCP-ECG diagnostic statements to the five superclasses of PTB-XL.

The table is PTB-XL's ``scp_statements.csv`` (Wagner et al. 2020, CC BY 4.0), columns ``diagnostic`` and
``diagnostic_class``, reduced to its 44 diagnostic statements.
"""

from __future__ import annotations

from collections.abc import Iterable

SUPERCLASSES: tuple[str, ...] = ("NORM", "MI", "STTC", "CD", "HYP")

_STATEMENTS = {
    "NORM": "NORM",
    "MI": "ALMI AMI ASMI ILMI IMI INJAL INJAS INJIL INJIN INJLA IPLMI IPMI LMI PMI",
    "STTC": "ANEUR DIG EL ISCAL ISCAN ISCAS ISCIL ISCIN ISCLA ISC_ LNGQT NDT NST_",
    "CD": "1AVB 2AVB 3AVB CLBBB CRBBB ILBBB IRBBB IVCD LAFB LPFB WPW",
    "HYP": "LAO/LAE LVH RAO/RAE RVH SEHYP",
}

SUPERCLASS_OF: dict[str, str] = {code: name for name, codes in _STATEMENTS.items() for code in codes.split()}
"""Diagnostic SCP-ECG code -> superclass; form and rhythm statements have none."""


def superclasses(labels: Iterable[str]) -> set[str]:
    """The superclasses that a recording's codes belong to, whatever their likelihood (0 = not stated).

    Args:
        labels: The ``labels`` mapping of a recording, or any iterable of codes. A superclass's own name counts too, so
            that an archive may give superclasses directly.
    """
    named = {SUPERCLASS_OF.get(code, code) for code in labels}
    return named & set(SUPERCLASSES)
