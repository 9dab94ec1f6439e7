"""Reports: what is cleaned away, what a tokenizer must keep, and what a prompt may be."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.text import (
    SUPERCLASSES,
    encode,
    fit_tokenizer,
    is_finding,
    load_tokenizer,
    normalise,
    parse_tokenizer,
    superclass_prompts,
)

REPORTS = [
    "sinusrhythmus normales ekg",
    "sinusrhythmus lagetyp normal normales ekg 4.46                          unbestÄtigter bericht",
    "sinus rhythm. left bundle branch block, this is most commonly due to    ischaemic heart disease.",
    "sinusrhythmus mÄssige amplitudenkriterien f#r linkshypertrophie",
    "sinusrytm ospecifik t-fÖrÄndring",
    "trace only requested.",
    "",
]


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("Sinusrhythmus   normales\tEKG\n", "sinusrhythmus normales ekg"),
        ("lagetyp normal 4.46        unbestÄtigter bericht", "lagetyp normal"),
        ("mÄssige kriterien f#r lvh, #bergang", "mässige kriterien für lvh, übergang"),
        ("sinus rhythm. Edit: LVH 80, (NDT)", "sinus rhythm."),
        ("bericht #3", "bericht #3"),
        ("a\u0308", "ä"),
        (None, ""),
    ],
)
def test_normalise(report: str | None, cleaned: str) -> None:
    assert normalise(report) == cleaned


@pytest.mark.parametrize(
    "report", [None, "", "  ", "Trace only requested.", "4.46  unbestÄtigter bericht", "Edit: LVH"]
)
def test_no_finding(report: str | None) -> None:
    assert not is_finding(report)
    assert is_finding("sinus rhythm. trace only requested.")


def test_special_tokens_and_shapes() -> None:
    tokenizer = fit_tokenizer(REPORTS, 400)
    assert [tokenizer.token_to_id(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    ids, mask = encode(tokenizer, [REPORTS[0], None, " ".join(REPORTS)], 12)
    assert ids.shape == mask.shape == (3, 12)
    assert ids.dtype == np.int32 and mask.dtype == np.uint8
    assert ids[1].tolist() == [2, 3] + [0] * 10, "an empty report is [CLS] [SEP]"
    assert (ids[:, 0] == 2).all() and ids[2, -1] == 3, "a cut report still ends in [SEP]"
    assert ((ids != 0) == (mask == 1)).all()
    assert encode(tokenizer, [], 12)[0].shape == (0, 12)


def test_every_letter_is_known_and_both_spellings_of_an_umlaut_agree() -> None:
    tokenizer = fit_tokenizer(REPORTS, 400)
    ids, _ = encode(tokenizer, ["mässige änderung", "maessige aenderung", "MÄSSIGE ÄNDERUNG"], 32)
    assert (ids[0] == ids[1]).all() and (ids[0] == ids[2]).all()
    ids, mask = encode(tokenizer, ["ж漢 ecg"], 32)
    assert not (ids == 1).any()
    assert tokenizer.decode(ids[0][mask[0] == 1].tolist()).split() == ["ж漢", "ecg"]


def test_length_can_change_between_calls() -> None:
    tokenizer = fit_tokenizer(REPORTS, 400)
    for length in (8, 16, 8):
        assert encode(tokenizer, REPORTS, length)[0].shape == (len(REPORTS), length)


def test_fitting_does_not_depend_on_order_or_process() -> None:
    here = fit_tokenizer(REPORTS, 400).to_str()
    assert fit_tokenizer(reversed(REPORTS), 400).to_str() == here
    code = f"from ecgscan_ray.text import fit_tokenizer\nprint(fit_tokenizer({REPORTS!r}, 400).to_str())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == here


def test_loading_back(tmp_path) -> None:
    tokenizer = fit_tokenizer(REPORTS, 400)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    wanted = encode(tokenizer, REPORTS, 24)[0]
    back = [parse_tokenizer(tokenizer.to_str()), *map(load_tokenizer, (tmp_path / "tokenizer.json", str(tmp_path)))]
    for one in back:
        assert (encode(one, REPORTS, 24)[0] == wanted).all()


@pytest.mark.parametrize("content", ["{}", "{", "not a tokenizer"])
def test_bad_tokenizers_are_one_line(tmp_path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a tokenizer"):
        load_tokenizer(path)
    with pytest.raises(InputError, match="no tokenizer here"):
        load_tokenizer(tmp_path / "absent")


def test_without_a_finding_tokens_are_bytes() -> None:
    tokenizer = fit_tokenizer(["", "trace only requested."], 400)
    assert tokenizer.get_vocab_size() == 4 + 256
    ids, mask = encode(tokenizer, ["", "ekg"], 8)
    assert ids[0].tolist() == [2, 3, 0, 0, 0, 0, 0, 0] and mask[1].sum() == 2 + len(" ekg")


def test_prompts_are_findings_in_two_languages() -> None:
    prompts = superclass_prompts()
    assert tuple(prompts) == SUPERCLASSES
    everything = [prompt for group in prompts.values() for prompt in group]
    assert len(set(everything)) == len(everything), "a prompt belongs to one class"
    for group in prompts.values():
        assert any("sinusrhythmus" in prompt for prompt in group) and any("sinus rhythm" in prompt for prompt in group)
        assert all(is_finding(prompt) and normalise(prompt) == prompt for prompt in group)
