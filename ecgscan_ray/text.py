"""Reports: normalisation, tokenizer, and the prompts of zero-shot classification.

The tokenizer is fitted on the corpus itself, so that nothing is downloaded. It is a byte-level BPE: it has no unknown
characters and gives the same vocabulary in every process (WordPiece numbers its pieces in hash order).
"""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.values import NOTHING

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""Normal, myocardial infarction, ST/T change, conduction disturbance, hypertrophy: PTB-XL's diagnostic superclasses."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Ids 0 to 3 of every fitted tokenizer."""

NOT_A_FINDING = NOTHING | {"trace only requested."}

_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}


def normalise(report: str | None) -> str:
    """Lower case, composed letters, single blanks.

    Args:
        report: Text of a report in any language, or none.

    Returns:
        The cleaned report; applying it again changes nothing. "" where there is none.
    """
    text = unicodedata.normalize("NFKC", report or "").lower()
    text = unicodedata.normalize("NFKC", text)  # lower() can decompose, e.g. the Turkish dotted I
    return " ".join(text.split())


def is_finding(report: str | None) -> bool:
    """False for a report without a finding: empty, a word for a missing value, or "trace only requested."."""
    return normalise(report) not in NOT_A_FINDING


def fit_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Fit a byte-level BPE on reports; the same reports give the same tokenizer, whatever their order.

    Umlauts are folded ("ä" to "ae"), since reports write both forms.

    Args:
        texts: Reports; those without a finding are dropped. Without any report, tokens are the single bytes.
        vocab_size: Tokens at most, special ones and the 256 bytes included.

    Returns:
        A tokenizer with [PAD]=0, [UNK]=1, [CLS]=2, [SEP]=3.
    """
    corpus = sorted(normalise(text) for text in texts if is_finding(text))
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    folds: list[normalizers.Normalizer] = [normalizers.Replace(letter, ascii_) for letter, ascii_ in _UMLAUTS.items()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *folds])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Leads stay whole ("v4,5" -> "v4", ",", "5"); compound words are split at the hyphen.
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, len(SPECIAL_TOKENS) + 256),
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a ``tokenizer.json``, or from a folder that holds one.

    Raises:
        InputError: There is none.
    """
    file = Path(path)
    try:
        file = file / "tokenizer.json" if file.is_dir() else file
        content = file.read_bytes()
    except OSError:
        fix = "Give a tokenizer.json or a folder that holds one."
        raise InputError("no tokenizer here", where=str(path)[:200], fix=fix) from None
    return parse_tokenizer(content, where=file)


def parse_tokenizer(text: str | bytes, where: object = "tokenizer.json") -> Tokenizer:
    """A tokenizer from its JSON text.

    Args:
        text: JSON; bytes are UTF-8.
        where: Named in the error.

    Raises:
        InputError: It is not a tokenizer.
    """
    try:
        json.loads(text)
        return Tokenizer.from_str(text if isinstance(text, str) else text.decode())
    except BaseException as error:  # the library raises plain Exception, and panics where a value is out of range
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"not a tokenizer ({str(error)[:160]})", where=where) from None


def encode(
    tokenizer: Tokenizer, texts: Sequence[str | None], max_length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Normalise and tokenise reports, cut and padded to ``max_length``; the closing [SEP] survives the cut.

    Args:
        tokenizer: Fitted here, or any ``tokenizers.Tokenizer`` of a pretrained encoder.
        texts: N reports; ``None`` counts as "".
        max_length: L, tokens per report.

    Returns:
        ids int32 (N, L) and mask uint8 (N, L), 1 where a token is.
    """
    _fix_length(tokenizer, max_length)
    encoded = tokenizer.encode_batch([normalise(text) for text in texts])
    shape = (len(texts), max_length)
    ids = np.array([one.ids for one in encoded], dtype=np.int32).reshape(shape)
    mask = np.array([one.attention_mask for one in encoded], dtype=np.uint8).reshape(shape)
    return ids, mask


def _fix_length(tokenizer: Tokenizer, max_length: int) -> None:
    """Switch on truncation and padding to ``max_length``, with the tokenizer's own [PAD]."""
    if tokenizer.truncation is None or tokenizer.truncation["max_length"] != max_length:
        tokenizer.enable_truncation(max_length)
    if tokenizer.padding is None or tokenizer.padding["length"] != max_length:
        names = [tokenizer.padding["pad_token"]] if tokenizer.padding else ["[PAD]", "<pad>", "<|endoftext|>"]
        name = next((name for name in names if tokenizer.token_to_id(name) is not None), names[0])
        tokenizer.enable_padding(length=max_length, pad_id=tokenizer.token_to_id(name) or 0, pad_token=name)


@functools.cache
def _prompt_file() -> dict[str, dict[str, list[str]]]:
    content = yaml.safe_load((resources.files("ecgscan_ray") / "prompts.yaml").read_text(encoding="utf-8"))
    return {name: dict(content[name]) for name in SUPERCLASSES}


def superclass_prompts() -> dict[str, list[str]]:
    """Zero-shot prompts of each superclass: German and English sentences in the wording of reports."""
    prompts = _prompt_file()
    return {name: [*itertools.chain(*by_language.values())] for name, by_language in prompts.items()}
