"""A page finds its own recording among others, whatever its strips' offsets, its gain and a small shift; or is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ecgscan_ray.evaluation.signal_search import NUM_REFINED, find_recordings, rank_candidates
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.recording.recording import Recording
from tests.recorded import recorded

FS = 500.0
GALLERY = recorded(60)


def page(
    shown: Recording,
    layout: str = "3x4+1",
    late_s: float = 0.0,
    own_late_s: Sequence[float] = (0.0,),
    gain: float = 1.0,
    lost: Sequence[int] = (),
) -> PageReading:
    """A page of the recording as read, each strip around an offset of its own.

    Args:
        shown: At ``FS``.
        layout: Of the page.
        late_s: How much too early its rows were found to begin.
        own_late_s: The same for strips of their own, in turn.
        gain: Factor by which heights are read wrongly.
        lost: Strips on which nothing was read.
    """
    strips = []
    for k, strip in enumerate(find_layout(layout).strips):
        seconds = strip.start_s + np.arange(round((strip.stop_s - strip.start_s) * FS)) / FS
        at = seconds - late_s - own_late_s[k % len(own_late_s)]
        mv = gain * np.interp(at, np.arange(shown.sig_len) / FS, shown.signal_mv[strip.lead]) + 0.1 * k
        mv = np.full(len(mv), np.nan) if k in lost else mv
        strips.append(StripReading(strip, mv.astype(np.float32), np.ones(len(mv), np.float32), np.zeros((0, 2))))
    found = Found(25.0, "given", 1.0)
    return PageReading(tuple(strips), FS, Found(layout, "given", 1.0), found, found, 0, (4.0, 4.0), 1.0, ())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"late_s": 0.04},
        {"own_late_s": (0.02, -0.02, 0.0)},
        {"gain": 0.5},
        {"lost": range(1, 9)},
        {"layout": "6x2", "late_s": -0.06, "gain": 2.0},
    ],
    ids=["as it is", "late", "strips late", "half gain", "eight strips lost", "6x2, early, double gain"],
)
def test_the_right_recording_is_first(changes: dict) -> None:
    pages = [page(GALLERY[7], **changes), page(GALLERY[23], **changes)]
    results = find_recordings(pages, GALLERY, top=3)
    assert [result.matches[0].recording_id for result in results] == ["7", "23"]
    for result in results:
        assert result.is_found and result.probability > 0.9
        assert result.matches[0].score > 0.93 and result.matches[0].score > result.matches[1].score + 0.05
        assert len(result.matches) == 3


def test_the_gain_changes_no_score() -> None:
    late = (0.03, -0.01, 0.02)
    results = find_recordings([page(GALLERY[7], own_late_s=late, gain=gain) for gain in (1.0, 0.1, 8.0)], GALLERY)
    for result in results[1:]:
        scores = zip(result.matches, results[0].matches, strict=True)
        assert all(match.score == pytest.approx(other.score, abs=1e-4) for match, other in scores)


def test_rows_that_begin_at_the_calibration_pulse_are_found() -> None:
    (result,) = find_recordings([page(GALLERY[7], late_s=0.27)], GALLERY)
    assert result.matches[0].recording_id == "7" and result.is_found
    assert result.matches[0].shift_s == pytest.approx(0.27, abs=0.021)


def test_the_shift_is_how_much_later_the_rows_begin() -> None:
    (result,) = find_recordings([page(GALLERY[7], late_s=0.04)], GALLERY)
    assert result.matches[0].shift_s == pytest.approx(0.04, abs=0.011)


def test_a_page_whose_recording_is_not_there_is_not_found() -> None:
    pages = [page(shown) for shown in GALLERY[:8]]
    among_others = find_recordings(pages, GALLERY[8:])
    assert not any(result.is_found for result in among_others)
    assert all(result.matches for result in among_others), "the nearest are named"
    among_all = find_recordings(pages, GALLERY)
    assert min(r.probability for r in among_all) > max(r.probability for r in among_others)


def test_other_layouts_and_order_do_not_change_a_page_s_result() -> None:
    pages = [page(GALLERY[1]), page(GALLERY[2], "12x1"), page(GALLERY[3], "6x2+1"), page(GALLERY[4])]
    together = find_recordings(pages, GALLERY)
    for reading, result in zip(pages, together, strict=True):
        (alone,) = find_recordings([reading], reversed(GALLERY))
        assert [m.recording_id for m in alone.matches] == [m.recording_id for m in result.matches]
        assert alone.probability == pytest.approx(result.probability, abs=1e-3)


def test_more_recordings_than_a_block_and_than_are_kept_are_read_once() -> None:
    rng = np.random.default_rng(0)
    near = [
        Recording(f"near {k}", "ptbxl", None, (GALLERY[5].signal_mv[:, ::5] * rng.uniform(0.2, 1, (12, 1))), 100.0)
        for k in range(40)
    ]

    def stream() -> Iterator[Recording]:
        for k in range(2100):
            noise = np.cumsum(rng.standard_normal((12, 1000)), 1).astype(np.float32) / 20
            yield Recording(f"other {k}", "ptbxl", None, noise, 100.0)
        yield from near
        yield GALLERY[5]

    (result,) = find_recordings([page(GALLERY[5])], stream(), top=NUM_REFINED)
    assert result.matches[0].recording_id == "5" and len(result.matches) == NUM_REFINED
    assert {m.recording_id for m in result.matches[1:41]} == {r.id for r in near}
    scores = [match.score for match in result.matches]
    assert scores == sorted(scores, reverse=True)


def test_recordings_that_are_short_or_have_gaps_are_compared_by_what_they_have() -> None:
    gap, short = GALLERY[3].signal_mv.copy(), GALLERY[4].signal_mv[:, :4500]
    gap[6, 2600:3000] = np.nan
    gap[2] = np.nan
    damaged = [Recording("gap", "ptbxl", None, gap, FS), Recording("short", "ptbxl", None, short, FS)]
    results = find_recordings([page(GALLERY[3]), page(GALLERY[4])], [*GALLERY[5:], *damaged])
    assert [result.matches[0].recording_id for result in results] == ["gap", "short"]


def test_candidates_of_an_embedding_are_ranked_for_each_page_alone() -> None:
    pages = [page(GALLERY[7], late_s=0.04), page(GALLERY[23], "6x2"), page(GALLERY[30], lost=range(13))]
    candidates = [["3", "7", "23", "not there"], [str(k) for k in range(20, 60)], ["30"]]
    first, second, blank = rank_candidates(pages, candidates, iter(GALLERY), top=40)
    assert first.matches[0].recording_id == "7"
    assert {m.recording_id for m in first.matches} == {"3", "7", "23"}
    assert second.matches[0].recording_id == "23" and second.is_found
    assert {m.recording_id for m in second.matches} == set(candidates[1])
    assert blank.matches == ()
    (alone,) = find_recordings(pages[1:2], GALLERY[20:])
    assert [m.recording_id for m in alone.matches] == [m.recording_id for m in second.matches[:10]]


def test_nothing_read_or_nothing_to_search_has_no_match() -> None:
    blank = page(GALLERY[0], lost=range(13))
    (of_blank, of_page) = find_recordings([blank, page(GALLERY[1])], GALLERY)
    assert of_blank.matches == () and of_blank.probability == 0.0 and not of_blank.is_found
    assert of_page.matches[0].recording_id == "1"
    (nowhere,) = find_recordings([page(GALLERY[1])], [])
    assert nowhere.matches == () and not nowhere.is_found


def test_the_yardstick_is_the_others_alone() -> None:
    (result,) = find_recordings([page(GALLERY[1])], GALLERY[1:3])
    assert result.evidence is not None and result.evidence.others == 1
    assert result.evidence.mean == pytest.approx(np.arctanh(result.matches[1].score), abs=0.2)
    assert result.evidence.spread == pytest.approx(0.0, abs=1e-6)


def test_a_single_recording_is_right_or_wrong_by_its_score() -> None:
    (right,) = find_recordings([page(GALLERY[1])], [GALLERY[1]])
    (wrong,) = find_recordings([page(GALLERY[1])], [GALLERY[2]])
    assert right.probability > 0.5 > wrong.probability
