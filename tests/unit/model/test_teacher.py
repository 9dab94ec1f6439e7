"""The teacher: masking, reconstruction, its loss, and that it needs no page."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config
from ecgscan_ray.evaluation.score import teacher_score
from ecgscan_ray.model.output import TeacherOutput
from ecgscan_ray.model.teacher import SignalReconstructionHead, mask_spans
from ecgscan_ray.objective.teacher import TeacherObjective, teacher_metrics
from ecgscan_ray.tasks.teach import Teach
from ecgscan_ray.training.tensors import to_device
from tests.records import recording
from tests.tiny import tiny_config

REPORTS = ["sinusrhythmus normales ekg", "linksschenkelblock", "vorhofflimmern", "sinus rhythm. normal ecg"]
TOKENIZER = text.fit_tokenizer(REPORTS, 300)


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny_config()


@pytest.fixture(scope="module")
def batch(config: Config) -> dict[str, torch.Tensor]:
    rows = [recording(str(n), seed=n, report=f"{REPORTS[n % 4]} {n}") for n in range(12)]
    return to_device(BatchMaker(config, TOKENIZER, with_pages=False).make(rows, range(12), [0] * 12), "cpu", 100)


def test_no_page_is_drawn(batch: dict[str, torch.Tensor]) -> None:
    assert batch["page_ok"].all()
    assert not {"image", "windows", "shown", "layout"} & batch.keys()


def test_masked_samples_are_zero_and_about_the_share_set() -> None:
    signal = torch.ones(64, 12, 1000)
    visible, hidden = mask_spans(signal, 0.5, 60, torch.Generator().manual_seed(1))
    assert torch.equal(visible == 0, hidden)
    assert hidden.float().mean() == pytest.approx(1 - 0.75**2, abs=0.02)
    moments = hidden.all(1).float().mean()
    assert moments == pytest.approx(0.25, abs=0.05), "stretches without any lead"
    assert torch.equal(hidden[..., 0], hidden[..., 59])


@pytest.mark.parametrize("positions", [32, 40, 7])
def test_each_position_of_the_map_gives_its_own_stretch(positions: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 8, positions, requires_grad=True)
    leads = SignalReconstructionHead(8, positions, 1000)(features)
    assert leads.shape == (1, 12, 1000)
    (grad,) = torch.autograd.grad(leads[0, :, 500].sum(), features)
    used = grad.abs().sum(1)[0].nonzero().flatten().float() / positions
    assert (used - 0.5).abs().max() < 4 / positions


def test_the_loss_falls_and_every_part_learns(config: Config, batch: dict[str, torch.Tensor]) -> None:
    model, objective = Teach().build_model(config, TOKENIZER).train(), TeacherObjective(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    course = []
    for step in range(30):
        torch.manual_seed(step)
        losses = objective(model(batch), batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        if step == 0:
            assert all(p.grad is not None for p in model.parameters()), "DDP requires a gradient for each"
        optimizer.step()
        course.append({name: value.item() for name, value in losses.items()})
    for name in ("report_loss", "view_loss", "hidden_loss"):
        assert np.mean([c[name] for c in course[-5:]]) < 0.9 * np.mean([c[name] for c in course[:5]]), name
    with torch.no_grad():
        output = model(batch)
        assert output.keys() == TeacherOutput.__annotations__.keys()
        assert torch.isfinite(torch.stack(list(teacher_metrics(output, batch).values()))).all()


def test_hidden_samples_alone_count_and_only_where_they_were_recorded(
    config: Config, batch: dict[str, torch.Tensor]
) -> None:
    model = Teach().build_model(config, TOKENIZER).eval()
    with torch.no_grad():
        output = model(batch)
        objective = TeacherObjective(config)
        before = objective.terms(output, batch)["hidden_loss"]
        elsewhere = output | {"reconstructed_mv": output["reconstructed_mv"] + 5 * ~output["hidden"]}
        assert objective.terms(elsewhere, batch)["hidden_loss"] == pytest.approx(float(before), rel=1e-5)
        unrecorded = batch | {"has_signal": torch.zeros(12, dtype=torch.bool)}
        assert objective.terms(output, unrecorded)["hidden_loss"] == 0


def test_the_score_is_the_same_at_every_call(config: Config, batch: dict[str, torch.Tensor]) -> None:
    model = Teach().build_model(config, TOKENIZER).train()
    one, other = teacher_score(model, [batch]), teacher_score(model, [batch])
    assert one == other
    assert set(one) == {f"validation.{n}" for n in ("score", "mrr_signal_to_text", "mrr_hidden_to_signal", "r_hidden")}
    assert model.training
    assert teacher_score(model, []) == {}
