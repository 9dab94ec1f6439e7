"""Joining the parts of a run's metrics."""

import json

import pytest

from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.metrics import join_parts, read_metrics, series, training_figures, write_validation


def part(*lines) -> str:
    return "".join(json.dumps({"kind": kind, "step": step, **values}) + "\n" for kind, step, values in lines)


def test_a_resumed_run_replaces_the_steps_it_did_again():
    first = part(
        *[("train", s, {"loss": 9.0}) for s in (10, 20, 30, 40)], ("validation", 20, {"validation.score": 0.1})
    )
    second = part(("train", 30, {"loss": 1.0}), ("validation", 40, {"validation.score": 0.3}))
    lines = join_parts([first, second])
    assert series(lines, "train", "loss") == ([10, 20, 30], [9.0, 9.0, 1.0])
    assert series(lines, "validation", "validation.score") == ([20, 40], [0.1, 0.3])


def test_a_validation_line_does_not_drop_the_training_line_of_its_step():
    lines = join_parts([part(("train", 20, {"loss": 2.0})), part(("validation", 20, {"validation.score": 0.5}))])
    assert len(lines) == 2


def test_a_broken_line_is_left_out_and_named(caplog):
    lines = join_parts([part(("train", 1, {"loss": 2.0})) + '{"step": 2, "kin'])
    assert [line["step"] for line in lines] == [1]
    assert "1 metric lines" in caplog.text


def test_reads_parts_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    for number, loss in ((10, 0.2), (2, 0.9)):
        (folder / f"part-{number:05d}.jsonl").write_text(part(("train", 5, {"loss": loss})))
    (folder / "notes.txt").write_text("not metrics")
    assert series(read_metrics(str(tmp_path)), "train", "loss") == ([5], [0.2])
    assert read_metrics(str(tmp_path / "nothing")) == []


def test_scores_measured_beside_training_come_between_the_others(tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    lines = [*[("train", step, {"loss": 1.0}) for step in (2, 4, 6, 8)], ("validation", 8, {"validation.score": 0.8})]
    (folder / "part-00000.jsonl").write_text(part(*lines))
    for step, score in ((6, 0.6), (2, 0.1), (2, 0.2), (8, 0.9)):
        write_validation(RunFolder(str(tmp_path)), step, {"validation.score": score})
    write_validation(RunFolder(str(tmp_path)), 4, {"error": "its process died"})
    lines = read_metrics(str(tmp_path))
    assert [line["step"] for line in lines] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert series(lines, "validation", "validation.score") == ([2, 6, 8], [0.2, 0.6, 0.8])
    assert training_figures(lines)["validation.score.best"] == 0.8


def test_shares_are_weighted_by_time():
    lines = join_parts(
        [
            part(
                ("train", 10, {"seconds": 1.0, "data_wait_share": 0.5, "images_per_s": 10.0}),
                ("train", 20, {"seconds": 3.0, "data_wait_share": 0.1, "images_per_s": 30.0}),
                ("validation", 20, {"validation.score": 0.4}),
                ("validation", 30, {"validation.score": 0.2}),
            )
        ]
    )
    figures = training_figures(lines)
    assert figures["data_wait_share"] == pytest.approx(0.2)
    assert figures["images_per_s"] == pytest.approx(25)
    assert figures["training.seconds"] == 4
    assert (figures["validation.score.best"], figures["validation.score.last"]) == (0.4, 0.2)
    assert training_figures([]) == {}
