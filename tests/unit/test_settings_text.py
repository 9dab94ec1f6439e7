"""Settings as text: whatever stands in a file or behind --set, one line and status 2, quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ecgscan_ray import text
from ecgscan_ray.config import Config, load, parse_overrides, read_yaml
from ecgscan_ray.errors import ConfigError, InputError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def load_file(folder: Path, content: bytes) -> Config:
    (folder / "mine.yaml").write_bytes(content)
    return load(Config, str(folder / "mine.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "aliases"),
        (b"a: &a {b: *a}", "aliases"),
        (b"training: &t {steps: 3}\nteacher: {<<: *t}", "aliases"),
        (b"[" * 100_000, "more than 32 levels"),
        (b"{a: " * 100_000, "more than 32 levels"),
        (b"- " * 100_000, "more than 32 levels"),
        (b"seed: \xe9", "not UTF-8"),
        (b"seed: 1\x00", "not readable as YAML"),
        (b"seed: 1\nseed: 2", "'seed' is given twice"),
        (b"training: {steps: 1, steps: 2}", "'steps' is given twice"),
        (b"seed: 2020-01-01", "setting 'seed'.*got '2020-01-01'"),
        (b"seed: !!timestamp 2020-01-01", "a value of type date"),
        (b"seed: !!binary aGVsbG8=", "a value of type bytes"),
        (b"seed: !!set {a, b}", "a value of type set"),
        (b"seed: !!python/object/apply:os.system [ls]", "not readable as YAML"),
        (b"seed: !!int x", "not readable as YAML"),
        (b"? [a, b]\n: 1", "not readable as YAML"),
        (b"2020-01-01: 1", "unknown setting"),
        (b"seed: " + b"9" * 10_000, "not readable as YAML"),
        (b"seed: 99999999999999999999", "63 bits"),
        (b"training: {learning_rate: .nan}", "finite"),
        (b"training: {learning_rate: .inf}", "finite"),
        (b"training: {learning_rate: 1e999}", "finite"),
        (b"training: {learning_rate: 'nan'}", "finite"),
        (b"--- 1\n--- 2", "not readable as YAML"),
        (b"just text", "mapping of sections"),
        (b"", "mapping of sections"),
        (b"x" * 5_000_000, "more than 4 MB"),
        (b"\tseed: 1", "not readable as YAML.*line 1"),
        (("a" * 900 + ": 1").encode(), "unknown setting"),
        (b"seed: '" + b"a" * 100_000 + b"'", "setting 'seed'"),
        (b"teacher: {run: 's3://AKID:HUSHHUSH@bucket/run'}", "credential"),
    ],
)
def test_a_file_that_cannot_be_settings(tmp_path: Path, content: bytes, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        load_file(tmp_path, content)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700 and "HUSH" not in line
    assert caught.value.exit_status == 2
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "setting",
    ["seed=[", "seed={", "seed=*a", "seed=&a [*a]", "seed=!!python/name:os.system", "seed=.nan", "seed=" + "[" * 9999,
     "seed='", "seed=2020-01-01", "seed=" + "9" * 5000, "seed", "=3", "seed=\x07", "training.steps.x=3", "a..b=1",
     ".=1", "teacher.run=s3://AKID:HUSHHUSH@bucket/run"],
)  # fmt: skip
def test_an_override_that_cannot_be(setting: str) -> None:
    with pytest.raises(InputError) as caught:
        load(Config, "laptop", [setting])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and "HUSH" not in str(caught.value)


def test_good_settings_mean_what_they_meant() -> None:
    values = {"a": 3, "b": 1.5, "c": "x", "d": True, "e": None, "f": [1, 2], "g": {"h": 0.5}, "k": 1e-4}
    texts = ["a=3", "b=1.5", "c=x", "d=true", "e=", "f=[1, 2]", "g={h: 0.5}", "k=1e-4"]
    assert parse_overrides(texts) == values
    assert load(Config, "laptop", ["training.learning_rate=1e-4"]).training.learning_rate == 1e-4
    assert parse_overrides(["a={1e-4: 2E+3}", "b='1e-4'", "c=1e-4x"]) == {
        "a": {"1e-4": 2000.0},
        "b": "1e-4",
        "c": "1e-4x",
    }


def test_settings_files_are_named_as_all_places_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my settings.yaml").write_bytes(b"\xef\xbb\xbfseed: 3")
    for name in ("~/my settings.yaml", f"file://{tmp_path}/my%20settings.yaml", str(tmp_path / "my settings.yaml")):
        assert read_yaml(name) == {"seed": 3}
    for name, message in [
        (str(tmp_path), "no such file"),
        ("s3://bucket/mine.yaml", "local files alone"),
        ("x" * 5000, "no preset|cannot be read"),
        ("/" + "x" * 5000, "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_yaml(name)


def test_a_tokenizers_text_is_never_taken_for_a_path(tmp_path: Path) -> None:
    for content in ("", "x" * 5000, "/etc/passwd", "[1]", "{}", '{"model": 1}', "[" * 100_000):
        with pytest.raises(InputError, match="not a tokenizer"):
            text.parse_tokenizer(content)
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer"):
            text.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="not a tokenizer"):
        text.load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no tokenizer here"):
        text.load_tokenizer("x" * 5000)
