"""Pages under a frozen teacher, and external signal encoders with their lead order and unit checked."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import ExternalEncoderConfig, build
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.external import OTHER_ORDERS, ExternalSignalEncoder, load_external, trust, trusted
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.tasks.teach import Teach
from ecgscan_ray.training.tensors import to_device
from tests.records import recording
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)


def batch_of(count: int = 6) -> dict[str, torch.Tensor]:
    rows = [recording(str(n), seed=n) for n in range(count)]
    return to_device(BatchMaker(tiny_config(), TOKENIZER).make(rows, range(count), [0] * count), "cpu", 100)


def test_stored_embeddings_replace_the_teacher() -> None:
    config, batch = tiny_config(teacher__run="x"), batch_of()
    model, teacher = Pretrain().build_model(config, TOKENIZER), Teach().build_model(tiny_config(seed=3), TOKENIZER)
    assert model.teacher is not None
    model.teacher.load_teacher(teacher, torch.full((16,), 0.1), torch.full((12,), -0.1))
    expected = model.eval()(batch)
    teacher.eval()
    embeddings = {
        "teacher_signal": teacher.encode_signal(batch["centred_mv"]).detach(),
        "teacher_report": teacher.encode_text(batch["token_ids"], batch["attention_mask"])[:, :12].detach(),
    }
    without = {name: value for name, value in batch.items() if name not in ("centred_mv", "token_ids")}
    output = model(without | embeddings)  # neither encoder can run: its input is missing
    for name in ("signal_features", "text_features"):
        torch.testing.assert_close(output[name], expected[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(output[name].norm(dim=-1), torch.ones(6))


def test_the_teacher_stays_and_the_projections_train() -> None:
    model, batch = Pretrain().build_model(tiny_config(teacher__run="x"), TOKENIZER), batch_of()
    assert model.teacher is not None
    model.train()
    assert not model.teacher.signal_encoder.training and not model.teacher.text_encoder.training, (
        "no dropout, no augmentation"
    )
    output = model(batch)
    (output["signal_features"][:, 0].sum() + output["text_features"][:, 0].sum()).backward()
    trained = {name for name, p in model.teacher.named_parameters() if p.grad is not None}
    assert trained == {f"{side}_projection.{part}" for side in ("signal", "report") for part in ("weight", "bias")}


def make_encoder() -> nn.Module:
    """An external encoder that takes aVF before aVL, in uV."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv1d(12, 8, 9, 4), nn.Tanh(), nn.Conv1d(8, 8, 9, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


ENCODER_LEADS = OTHER_ORDERS["aVF before aVL"]


@pytest.fixture
def external(tmp_path: Path) -> dict[str, Any]:
    encoder = make_encoder().eval()
    signal = torch.stack([torch.from_numpy(recording(seed=n).signal_mv) for n in range(3)])
    with torch.no_grad():
        embedding = encoder(signal[:, [LEADS.index(name) for name in ENCODER_LEADS]] * 1000)
    save_file({"signal_mv": signal, "embedding": embedding}, tmp_path / "known.safetensors")
    torch.jit.trace(encoder, signal).save(str(tmp_path / "encoder.pt"))
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    return {
        "path": str(tmp_path / "encoder.pt"),
        "dim": 8,
        "fs": 100.0,
        "leads": ENCODER_LEADS,
        "units_per_mv": 1000.0,
        "known": str(tmp_path / "known.safetensors"),
    }


def config_of(external: dict[str, Any], **changes: Any) -> ExternalEncoderConfig:
    return build(ExternalEncoderConfig, external | changes, where="test")


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever types ``--trust`` of this module, and of one that is not there."""
    monkeypatch.setattr("ecgscan_ray.model.external.TRUSTED", {__name__, "nowhere"})


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_an_external_encoder_answers_from_either_file(
    external: dict[str, Any], tmp_path: Path, kind: str, trusting: None
) -> None:
    factory = f"{__name__}:make_encoder" if kind == "safetensors" else None
    import sys

    sys.modules.setdefault(__name__, sys.modules[make_encoder.__module__])
    config = config_of(external, path=str(tmp_path / f"encoder.{kind}"), factory=factory)
    teacher_config = tiny_config(teacher__encoder=config.model_dump())
    teacher = Teach().build_model(teacher_config, TOKENIZER).train()
    assert isinstance(teacher.signal_encoder, ExternalSignalEncoder)
    batch = batch_of()
    output = teacher(batch)
    assert output["signal_features"].shape == (6, 16)
    assert "reconstructed_mv" not in output
    parts = {name.split(".")[0] for name in teacher.signal_encoder.state_dict()}
    assert parts == {"norm", "content_head", "timing_head"}, "its weights stay in their file"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"leads": None}, r"They are right with teacher\.encoder\.leads=\[.*\(aVF before aVL\)"),
        ({"units_per_mv": 1.0}, r"They are right with teacher\.encoder\.units_per_mv=1000 \(uV\)"),
        ({"leads": tuple(reversed(LEADS))}, r"\(aVF before aVL\)"),
        ({"leads": None, "units_per_mv": 1.0}, r"\(aVF before aVL\) and teacher\.encoder\.units_per_mv=1000"),
        ({"units_per_mv": 1000.1 / 7}, r"units_per_mv=1000"),
        ({"leads": ("I",) * 12}, "not each of I II III"),
        ({"dim": 9}, "holds signal_mv"),
        ({"path": "nowhere.pt"}, "no such file"),
        ({"factory": "nowhere:encoder"}, "cannot be loaded"),
    ],
)
def test_a_wrong_order_or_unit_is_one_line(external: dict[str, Any], changes: dict, line: str, trusting: None) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        load_external(config_of(external, **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda s: s * 1000, "not in mV"),
        (lambda s: s[:, [0, 1, 2, 3, 5, 4, *range(6, 12)]], "miss the lead laws"),
    ],
)
def test_known_recordings_out_of_order_are_refused(external: dict[str, Any], spoil: Any, line: str) -> None:
    from safetensors.torch import load_file

    content = load_file(external["known"])
    save_file({**content, "signal_mv": spoil(content["signal_mv"]).contiguous()}, external["known"])
    with pytest.raises(ConfigError, match=line):
        load_external(config_of(external))


class Bomb:
    """What a pickle can do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["evil.pt2", "evil.pt"])
def test_no_file_of_weights_runs_code(external: dict[str, Any], tmp_path: Path, name: str) -> None:
    mark, path = tmp_path / "code-ran", tmp_path / name
    signal = torch.zeros(2, 12, 1000)
    torch.export.save(torch.export.export(make_encoder().eval(), (signal,)), tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(path, "w") as evil:
        for member in good.namelist():
            evil.writestr(member, pickle.dumps(Bomb(mark)) if "sample_inputs" in member else good.read(member))
    with pytest.raises(
        ConfigError, match="run code when they are loaded" if name == "evil.pt2" else "cannot be loaded"
    ):
        load_external(config_of(external, path=str(path)))
    assert not mark.exists()


def test_settings_alone_run_no_code(external: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscan_ray.model.external.TRUSTED", set())
    monkeypatch.setenv("ECGSCAN_TRUST", "os")
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\ndef make(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    weights = str(tmp_path / "encoder.safetensors")
    for factory in ("os:abort", "evil_module:make", "builtins:exit"):
        with pytest.raises(ConfigError, match=f"If you trust it, add --trust {factory.partition(':')[0]}") as raised:
            load_external(config_of(external, path=weights, factory=factory))
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "imported").exists()
    trust(["evil_module"])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_external(config_of(external, path=weights, factory="evil_module:make"))
    assert (tmp_path / "imported").exists()
    assert trusted() == ("evil_module",)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[: len(data) // 2], lambda data: b""])
def test_damaged_weights_are_one_line(external: dict[str, Any], damage: Any) -> None:
    path = Path(external["path"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="cannot be loaded") as raised:
        load_external(config_of(external))
    assert "\n" not in str(raised.value)
