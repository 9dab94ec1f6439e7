"""The encoder of leads: masks, what stays as it was read, attention that knows which cells are shown."""

import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.evaluation.redraw import recording_pearson
from ecgscan_ray.model.leads import LeadsEncoder, keep_read
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.tensors import to_device
from tests import records
from tests.tiny import tiny_config

CONFIG = tiny_config(model__input="leads", page__layouts={"3x4+1": 1.0, "6x2": 1.0})
TOKENIZER = text.fit_tokenizer(["sinusrhythmus"], 300)


@pytest.fixture(scope="module")
def batch():
    rows = [records.recording(str(n), seed=n, report=f"befund {n}") for n in range(6)]
    return to_device(BatchMaker(CONFIG, TOKENIZER).make(rows, range(6), [0] * 6), "cpu", CONFIG.model.signal_fs)


@pytest.fixture(scope="module")
def model():
    return Pretrain().build_model(CONFIG, TOKENIZER).eval()


def test_a_batch_holds_what_was_read_and_no_picture(batch):
    assert "image" not in batch
    assert batch["leads_mv"].shape == batch["leads_shown"].shape == (6, 12, 1000)
    r = recording_pearson(batch["leads_mv"], batch["centred_mv"], batch["unseen"])
    assert r.mean() > 0.6, "mean beats where nothing was read"
    assert not (batch["leads_shown"] & ~batch["shown"]).any()
    share = batch["leads_shown"].sum() / batch["shown"].sum()
    assert 0.85 < share <= 1


def test_every_weight_is_trained_by_the_loss(batch):
    model = Pretrain().build_model(CONFIG, TOKENIZER).train()
    losses = Pretrain().build_loss(CONFIG)(model(batch), batch)
    assert "frame_loss" not in losses
    losses["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert torch.isfinite(losses["loss"])


def test_the_tower_sees_the_mask(model, batch):
    mv, shown = batch["leads_mv"], batch["leads_shown"]
    with torch.inference_mode():
        one = model.page(mv, shown)["image_features"]
        other = model.page(mv, torch.ones_like(shown))["image_features"]
    assert (one - other).abs().max() > 1e-4
    torch.testing.assert_close(one.norm(dim=1), torch.ones(6))


def test_features_for_a_classifier_do_not_depend_on_how_much_a_page_shows(batch, monkeypatch):
    model = LeadsEncoder(CONFIG.model).eval()
    mv, shown = batch["leads_mv"], batch["leads_shown"]
    monkeypatch.setattr(model.decoder, "forward", lambda leads_mv, _: leads_mv)  # redrawn without an error
    with torch.inference_mode():
        one, other = model.features(mv, shown), model.features(mv, torch.ones_like(shown))
        torch.testing.assert_close(model(mv, shown)["features"], one)
    assert one.shape == (6, model.feature_dim)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_was_read_stays_up_to_an_offset(model, batch):
    mv, shown = batch["leads_mv"], batch["leads_shown"]
    with torch.inference_mode():
        redrawn = model.page(mv, shown)["redrawn_mv"]
    for row in range(6):
        for lead in range(12):
            here = shown[row, lead]
            if here.any():
                offset = (redrawn - mv)[row, lead][here]
                assert offset.max() - offset.min() < 1e-4


def test_a_lead_that_is_not_read_at_all_is_redrawn_finite(model, batch):
    mv, shown = batch["leads_mv"].clone(), batch["leads_shown"].clone()
    mv[:, 6:], shown[:, 6:] = 0, False
    with torch.inference_mode():
        some = model.page(mv, shown)
        nothing = model.page(torch.zeros_like(mv), torch.zeros_like(shown))
    for output in (some, nothing):
        assert all(torch.isfinite(value).all() for value in output.values())


def test_an_untrained_decoder_nearly_gives_what_it_begins_with(model, batch):
    with torch.inference_mode():
        redrawn = model.page.decoder(batch["leads_mv"], batch["leads_shown"])
    assert (redrawn - batch["leads_mv"]).abs().mean() < 0.05


def test_offsets_are_those_of_the_redrawn_lead():
    read, redrawn = torch.zeros(1, 12, 10), torch.full((1, 12, 10), 0.3)
    shown = torch.zeros(1, 12, 10, dtype=torch.bool)
    shown[:, 0, :5] = True
    read[:, 0, :5] = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0])
    expected = redrawn.clone()
    expected[:, 0, :5] = read[:, 0, :5] + 0.3
    torch.testing.assert_close(keep_read(read, shown, redrawn), expected)


def test_recordings_are_moved_a_little_before_they_are_compared_with_pages():
    encoder = LeadsEncoder(CONFIG.model).signal_encoder
    torch.manual_seed(0)
    ramp = torch.arange(1000.0).expand(64, 12, 1000)
    moved = encoder.moved(ramp)
    shift = moved[:, :, 500] - 500
    assert (shift == shift[:, :1]).all(), "all leads by the same time"
    assert 1 < shift[:, 0].std() < 3 and moved.min() >= 0 and moved.max() <= 999
