"""Reading a page: the frame's geometry, where layouts draw what, and that straightened rows are the recording."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ecgscan_ray.evaluation.redraw import OTHER_VARIANCE, project_on_laws
from ecgscan_ray.model.decoder import ALGEBRA_GAIN, Decoder, LayoutGrid
from ecgscan_ray.model.frame import Frame, RowSampler, Votes, apply_homography, sample_rows
from ecgscan_ray.objective.soft_leads import lead_law_residual
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.paper.layout import LAYOUTS, nominal_frame, strip_boxes, timed
from ecgscan_ray.recording.leads import LEAD_LAWS, LEADS
from tests.records import recording as made_up
from tests.tiny import tiny_config

COLUMNS = 250


def test_the_homography_is_that_of_opencv() -> None:
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    corners = np.array([(0.1, 0.2), (0.95, 0.15), (0.9, 0.85), (0.05, 0.8)], np.float32)
    uv = np.random.default_rng(0).random((7, 2)).astype(np.float32)
    expected = cv2.perspectiveTransform(uv[None], cv2.getPerspectiveTransform(square, corners))[0]
    xy = apply_homography(torch.from_numpy(corners)[None], torch.from_numpy(uv)[None])[0]
    np.testing.assert_allclose(xy.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("speed", [25.0, 50.0])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_column_lies_on_the_strip_that_shows_it(name: str, speed: float) -> None:
    page = tiny_config(page__layouts={name: 1.0}, page__paper_speed_mm_per_s=speed).page
    grid, layout = LayoutGrid(name, speed, COLUMNS), timed(name, speed)
    u = (torch.arange(COLUMNS) + 0.5) / COLUMNS
    row = grid.row
    corners = torch.from_numpy(nominal_frame(page, name))[None]
    flat = RowSampler(page)(corners, u, row, torch.zeros(1, 1))[0, :, 0].flatten(0, 1).numpy()  # (R * W, 2)
    boxes, pitch = strip_boxes(page, name), (u[1] - u[0]).item()
    seen = 0
    for group in grid.groups:
        for lead, source in zip(group.leads, group.source, strict=True):
            for column, index in zip(group.identity.argmax(0).tolist(), source.tolist(), strict=True):
                second = (column + 0.5) / COLUMNS * 10
                strips = [k for k, s in enumerate(layout.strips) if s.lead == lead and s.start_s <= second < s.stop_s]
                strip = max(strips, key=lambda k: layout.strips[k].stop_s - layout.strips[k].start_s)
                shown_by, (x0, y0, x1, y1) = layout.strips[strip], boxes[strip]
                x = x0 + (second - shown_by.start_s) / (shown_by.stop_s - shown_by.start_s) * (x1 - x0)
                assert abs(flat[index, 0] - x) < 1.1 * pitch and abs(flat[index, 1] - (y0 + y1) / 2) < 1e-3
                assert grid.flip.flatten()[index] == shown_by.sign
                seen += 1
    shown_s = sum(s.stop_s - s.start_s for s in layout.strips if not s.rhythm)
    assert seen >= shown_s / 10 * COLUMNS - 12 and sorted(lead for g in grid.groups for lead in g.leads) == list(
        range(12)
    )


def test_leads_of_a_moment_are_mixed_by_what_is_shown_then() -> None:
    """Untrained, nothing is added; the evidence-weighted projection on the lead laws is among what can be learned."""
    config = tiny_config(page__layouts={"3x4+1": 1.0})
    decoder = Decoder(config.model, config.page, (8, 8, 8))
    shown = decoder.layouts[0].shown
    leads = torch.randn(2, 12, decoder.columns, decoder.samples_per_column)
    torch.testing.assert_close(decoder.mix_leads(leads, shown), leads)

    laws = torch.as_tensor(LEAD_LAWS, dtype=torch.float64)
    patterns = torch.unique(shown.T, dim=0)
    assert len(patterns) == 4, "one a quarter of the page"
    variance = torch.where(patterns, 1.0, OTHER_VARIANCE).double()
    corrections = torch.stack(
        [-torch.diag(v) @ laws.T @ torch.linalg.inv(laws @ torch.diag(v) @ laws.T) @ laws for v in variance]
    )
    flags = torch.cat([patterns.double(), torch.ones(4, 1, dtype=torch.float64)], 1)
    solved = torch.linalg.lstsq(flags, corrections.flatten(1) / ALGEBRA_GAIN).solution
    with torch.no_grad():
        decoder.lead_mixing.weight.copy_(solved[:-1].T)
        decoder.lead_mixing.bias.copy_(solved[-1])
        mixed = decoder.mix_leads(leads, shown).flatten(2)
    assert lead_law_residual(mixed).abs().max() < 1e-4 < lead_law_residual(leads.flatten(2)).abs().max()
    seen = shown.repeat_interleave(decoder.samples_per_column, -1).expand(2, -1, -1)
    torch.testing.assert_close(mixed, project_on_laws(leads.flatten(2), seen), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["3x4+1", "6x2", "12x1", "3x4/cabrera"])
def test_the_page_is_dark_where_the_recording_says(name: str) -> None:
    """Read at the height and the time that the recording has, rows give ink; elsewhere they give paper."""
    config = tiny_config(
        page__layouts={name: 1.0}, page__height=640, page__width=832, page__effects="clean", page__channels=1
    )
    recording = made_up()
    page = Renderer(config.page).render([recording], np.array([page_key(0, 0, recording.id, 0)], np.uint64))
    image = 1 - torch.from_numpy(page.image).permute(0, 3, 1, 2).float() / 255
    grid = LayoutGrid(name, 25.0, COLUMNS)
    signal = recording.signal_mv[:, :1000].reshape(12, COLUMNS, 4)[..., 2]  # at the middle of each column
    height = np.zeros(grid.rows * COLUMNS, np.float32)
    for group in grid.groups:
        for lead, source in zip(group.leads, group.source, strict=True):
            shown = signal[lead, group.identity.argmax(0)]
            height[source] = (shown - np.median(shown)) * grid.flip.flatten()[source].numpy()
    height_mv = torch.from_numpy(height.reshape(grid.rows, 1, COLUMNS))
    row, sampler = grid.row, RowSampler(config.page)
    corners, u = torch.from_numpy(page.truth[0].frame_corners())[None], (torch.arange(COLUMNS) + 0.5) / COLUMNS

    def ink(late_s: float = 0.0, up_mv: float = 0.0) -> float:
        return sample_rows(image, sampler(corners, u + late_s / 10, row, height_mv + up_mv)).median().item()

    beats = height_mv.abs() > 0.3
    assert ink() > 0.35 and ink(up_mv=0.15) < 0.6 * ink() and ink(up_mv=-0.15) < 0.6 * ink()
    on, late = (sample_rows(image, sampler(corners, u + dt, row, height_mv))[:, 0][beats].mean() for dt in (0.0, 0.012))
    assert on > 2 * late


def test_what_is_not_shown_is_filled_from_what_was_like_it() -> None:
    """With sharp attention on the rhythm, a lead's unseen beat is its own seen beat at the same phase of the rhythm."""
    config = tiny_config(page__layouts={"3x4+1": 1.0}, model__decoder__columns_per_s=25)
    torch.manual_seed(0)
    decoder = Decoder(config.model, config.page, (8, 8, 16))
    width = decoder.state_dim
    phase = torch.arange(COLUMNS) % 25  # a beat a second
    rhythm = torch.zeros(1, width + 1, COLUMNS)
    rhythm[0, 0], rhythm[0, 1] = torch.sin(phase / 25 * 6.2832), torch.cos(phase / 25 * 6.2832)
    other_rows = torch.zeros(1, width + 1, 3 * COLUMNS)
    other_rows[0, 5] = phase.repeat(3).float()
    with torch.no_grad():
        for layer in (decoder.query, decoder.key):
            layer.weight.zero_(), layer.bias.zero_()
            layer.weight[0, 0, 4] = layer.weight[1, 1, 4] = 60.0
        cells = decoder.fill_cells(decoder.layouts[0], torch.cat([other_rows, rhythm], 2))
    assert cells.shape == (1, width + 1, 12, COLUMNS)
    v1 = cells[0, 5, LEADS.index("V1")]  # shown from 5 to 7.5 s
    np.testing.assert_allclose(v1.numpy(), phase.numpy(), atol=0.1)


@pytest.mark.parametrize("name", ["3x4+1", "6x2+1"])
def test_sharp_votes_give_the_true_frame(name: str) -> None:
    """From corners that are right in height alone, the edges of the strips tell position, slant and perspective."""
    page = tiny_config(page__layouts={name: 1.0}).page
    frame = Frame(page, 8)
    true = torch.tensor([[[0.10, 0.31], [0.93, 0.28], [0.90, 0.88], [0.12, 0.85]]])
    estimate = true + torch.tensor([[[0.01, 0.0], [-0.01, 0.0], [0.008, 0.0], [-0.006, 0.0]]])
    uv = frame.edge_uv
    u = uv[..., :1] + frame.steps
    xy = apply_homography(estimate, torch.stack([u, uv[..., 1:].expand_as(u)], -1))
    distance = (xy - apply_homography(true, uv)[:, :, None]).square().sum(-1)
    corners = frame.fit_corners(estimate, Votes(-distance * 2e5, xy, frame.edge_counts), uv)
    assert (corners - true).abs().max() < 0.15 * (estimate - true).abs().max()


def test_pages_of_several_layouts_do_not_see_each_other() -> None:
    config = tiny_config(page__layouts={"3x4+1": 0.5, "6x2": 0.5}, model__decoder__columns_per_s=25)
    decoder = Decoder(config.model, config.page, (8, 8, 16)).eval()
    image = torch.randn(4, 1, 96, 128)
    maps = tuple(torch.randn(4, c, h, 128 * h // 96) for c, h in ((8, 24), (8, 12), (16, 3)))
    truth = decoder.frame.nominal[[0, 1, 0, 1]], torch.tensor([0, 1, 0, 1])
    together, _, _ = decoder(image, maps, truth)
    for row in range(4):
        alone, _, _ = decoder(image[[row]], tuple(m[[row]] for m in maps), tuple(t[[row]] for t in truth))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
