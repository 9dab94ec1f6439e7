"""The language of a report, from function words and common terms; for counts and for choosing prompts."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+")
_GERMAN = set(
    _WORD.findall(
        """abnorm abweichung anterior bei bild des der die ekg erregungsausbreitung ist kammer kein keine lagetyp
        linkstyp links linksschenkelblock mit nicht niederspannung normal normales oder pathologisches periphere rechts
        rechtsschenkelblock reizleitung schenkelblock sinusbradykardie sinusrhythmus sinustachykardie sonst steiltyp
        typ ueberdrehter und unspezifisch verdacht verlangsamt vom von vorhofflimmern zeichen zu"""
    )
)
_ENGLISH = set(
    _WORD.findall(
        """abnormal and are atrial axis be beats block borderline bundle complex complexes consider deviation ecg edited
        evidence fibrillation for heart in infarct infarction is ischaemia left low may of old or otherwise premature
        probable probably right rhythm sinus tachycardia the this trace undetermined ventricular voltage with"""
    )
)


def language(report: str | None) -> str | None:
    """``de``, ``en`` or ``other``; ``None`` for no report."""
    words = [word.lower() for word in _WORD.findall(report or "")]
    if not words:
        return None
    german = sum(word in _GERMAN or "rhythmus" in word or word.endswith("typ") for word in words)
    english = sum(word in _ENGLISH for word in words)
    if german == english == 0:
        return "other"
    return "de" if german >= english else "en"
