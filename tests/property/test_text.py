"""Laws of report text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.text import encode, fit_tokenizer, normalise

TOKENIZER = fit_tokenizer(["sinusrhythmus normales ekg", "sinus rhythm. normal ecg."], 300)
letters = st.text(st.sampled_from("abcdeäÄöß#İ 4.6:,()\n") | st.characters(codec="utf-8"))
pieces = st.sampled_from(["edit:", "4.46 unbestÄtigter bericht", "un", "#", "ekg", "4.4", "bestätigter bericht"])
reports = st.lists(letters | pieces).map("".join)


@given(reports)
def test_normalising_twice_is_normalising_once(report: str) -> None:
    once = normalise(report)
    assert normalise(once) == once


@given(reports)
def test_repairing_twice_is_repairing_once(report: str) -> None:
    once = repaired(report, "ptbxl")
    assert repaired(once, "ptbxl") == once


@given(reports, st.integers(4, 40))
def test_every_text_is_framed_and_padded(report: str, length: int) -> None:
    (ids,), (mask,) = encode(TOKENIZER, [report], length)
    count = int(mask.sum())
    assert mask.tolist() == [1] * count + [0] * (length - count)
    assert ids[0] == 2 and ids[count - 1] == 3 and not ids[count:].any()
