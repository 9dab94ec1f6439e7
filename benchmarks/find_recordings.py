"""``python -m benchmarks.find_recordings RUN --data DATA --store STORE``: which recording does a photograph show?

RUN is the run folder of a pretraining or an exported encoder. Each photograph's embedding is compared with those of its
own recording, the other photographed ones and ``--others`` more recordings of fold 9. The printed head with id and age is
painted over. ``photo`` are pictures as they are; ``cut`` their pages cut out by their corners; ``raised`` the same with
the rows moved up to where ours have them; ``rendered`` pages drawn of the same recordings as the run's were: what the
reader can do at best. STORE is the run's store: where a patient of the gallery was trained on, there is no figure but an
error. Prints flat JSON, each figure with its 95 % interval over patients and chance beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.photographs import ROWS_LOWER, Photograph, database, photographs, recordings
from ecgscan_ray.encoder import Encoder, load_encoder
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.features import EVALUATION_EPOCH
from ecgscan_ray.evaluation.retrieval import rank_matches
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.training.tensors import centred

FOLDS = ("9", "10")
"""Official folds that nothing here is trained on."""
RECALL_AT = (1, 10)
_BATCH = 64


def gallery(data: Path, photos: Sequence[Photograph], others: int, seed: int = 0) -> list[Recording]:
    """The photographed recordings, then up to ``others`` more of ``FOLDS``, one a patient, none a photographed patient."""
    rows = {row["ecg_id"]: row for row in database(data)}
    shown = [rows[ecg_id] for ecg_id in sorted({photo.ecg_id for photo in photos})]
    left_out = {row["patient_id"] for row in shown}
    first = {row["patient_id"]: row for row in rows.values() if row["strat_fold"] in FOLDS}
    pool = [row for patient, row in sorted(first.items()) if patient not in left_out]
    picks = np.random.default_rng(seed).permutation(len(pool))[:others]
    return recordings(data, [*shown, *(pool[k] for k in picks)])


def check_strangers(candidates: Sequence[Recording], store: str) -> None:
    """No patient in ``candidates`` may have been trained or validated on.

    Raises:
        InputError: One was.
    """
    manifest = read_manifest(store)
    seen = {r.patient_id for split in ("train", "validation") for r in iterate_rows(store, manifest, split)}
    if met := sorted(r.patient_id for r in candidates if r.patient_id and r.patient_id in seen):
        raise InputError(f"{len(set(met))} patients of the gallery were trained on, first {met[0]}", where=store)


@torch.inference_mode()
def embed_signals(encoder: Encoder, candidates: Sequence[Recording]) -> np.ndarray:
    """Aligned features (N, D) of recordings."""
    length, fs = encoder.module.sig_len, encoder.module.signal_fs
    parts = []
    for start in range(0, len(candidates), _BATCH):
        batch = [r.resampled(fs).signal_mv[:, :length] for r in candidates[start : start + _BATCH]]
        padded = np.stack([np.pad(s, ((0, 0), (0, length - s.shape[1])), constant_values=np.nan) for s in batch])
        signal = torch.from_numpy(padded)
        valid = torch.isfinite(signal)
        parts.append(encoder.module.signal_encoder(centred(signal.nan_to_num(0.0), valid)).numpy())
    return np.concatenate(parts)


def measure(encoder: Encoder, photos: Sequence[Photograph], candidates: Sequence[Recording]) -> dict[str, Estimate]:
    """Recall at 1 and 10 and the median rank of photographs, cut-out pages and rendered ones."""
    signals, row_of = embed_signals(encoder, candidates), {r.id: k for k, r in enumerate(candidates)}
    own = np.array([row_of[photo.ecg_id] for photo in photos])
    shown = [candidates[k] for k in own]
    keys = np.array([page_key(0, EVALUATION_EPOCH, r.id, 0) for r in shown], np.uint64)
    pages = {
        "photo": (photo.pixels(headless=True) for photo in photos),
        "cut": (photo.cut_out(photo.pixels(headless=True)) for photo in photos),
        "raised": (photo.cut_out(photo.pixels(headless=True), ROWS_LOWER) for photo in photos),
        "rendered": iter(Renderer(encoder.page).render(shown, keys).image),
    }
    bootstrap = PatientBootstrap(np.array([int(r.patient_id or -1) for r in shown]))
    figures = {}
    for name, images in pages.items():
        queries = encoder.embed(images, projected=True)
        ranking = rank_matches(queries, signals, own, np.arange(len(candidates)))
        for k in RECALL_AT:
            figures[f"{name}.recall_at_{k}"] = bootstrap.mean(ranking.hits(k))
            figures[f"{name}.chance_at_{k}"] = Estimate(ranking.chance(k), n=len(photos))
        figures[f"{name}.median_rank"] = bootstrap.median(ranking.rank)
    figures["gallery"] = Estimate(float(len(candidates)), n=len(photos))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder or exported encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/ and ptbxl/")
    parser.add_argument("--store", required=True, help="the store the run was trained on")
    parser.add_argument("--others", type=int, default=1000, help="recordings that are not photographed")
    options = parser.parse_args(arguments)
    try:
        photos = photographs(options.data)
        candidates = gallery(options.data, photos, options.others)
        check_strangers(candidates, options.store)
        figures = measure(load_encoder(options.run), photos, candidates)
    except EcgscanError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(json.dumps({name: figure.as_dict() for name, figure in figures.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
