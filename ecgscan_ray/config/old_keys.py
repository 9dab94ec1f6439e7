"""Keys that were settings once: files and commands that still have them are refused with what became of them."""

from __future__ import annotations

RENAMED = {
    "page.chances": "page.effect_probabilities",
    "page.sizes": "page.effect_ranges",
    "page.chest_half_gain": "page.half_gain_precordial_probability",
    "page.deep_header": "page.max_extra_header",
    "page.clip": "page.amplitude_clip",
    "model.decoder.read_mv": "model.decoder.sample_range_mv",
    "model.decoder.read_px": "model.decoder.sample_rows",
    "model.decoder.segment_s": "model.decoder.cell_s",
    "objective.pair_shares": "objective.pair_weights",
    "objective.mask_same": "objective.mask_false_negatives",
    "objective.centre_teachers": "objective.center_targets",
    "objective.schedules.*.rise": "objective.schedules.*.warmup",
    "objective.schedules.*.end": "objective.schedules.*.final_factor",
    "teacher.view_weight": "teacher.masked_view_weight",
    "teacher.hidden_share": "teacher.mask_ratio",
    "training.withhold_signals": "training.drop_signal_fraction",
    "against": "baseline",
    "concurrent": "max_concurrent",
    "stop_behind": "prune_quantile",
    "grace_reports": "prune_grace",
}
"""Old key -> new key, of runs and sweeps; ``*`` stands for any one name."""

REMOVED = {
    "task": "the command decides it (pretrain, teach), and a run keeps it in environment.json",
    "arms": "an ablation is a file of its own, with arms and no space: 'ecgscan ablate'",
    "teacher.digest": "a run keeps the digest of its teacher in environment.json",
    "teacher.hidden_weight": "it is always 1",
    "teacher.hidden_seconds": "a masked span is always 0.6 s long",
    "model.signal_seconds": "it is always 10 s, the length of a page",
    "model.text.freeze": "the text tower is always trained; 'ecgscan teach' makes one that stays as it is",
    "objective.label_smoothing": "it was never used above 0",
    "objective.precordial_tie_weight": "the term did not improve any figure and is gone",
    "objective.precordial_tie_delta_mv": "the term did not improve any figure and is gone",
    "objective.siglip_bias": "the bias always starts at -10 and is learned",
    "objective.temperature_min": "it is always 0.01",
    "objective.learn_temperature": "the temperature is always learned, from objective.temperature on",
    "objective.shown_weight": "it is always 1",
    "objective.derivable_weight": "it is always 0.5",
    "objective.unseen_weight": "it is always 0.2",
    "training.grad_clip_norm": "it is always 1",
    "resources.read_actors": "there is one for ten resources.render_actors",
}
"""Old key -> what became of it, of runs and sweeps."""


def new_name(key: str) -> str | None:
    """The new name of a dotted key, or of the group that it was in; ``None`` where it has none."""
    parts = key.split(".")
    for old, new in RENAMED.items():
        pattern = old.split(".")
        if len(parts) >= len(pattern) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=False)):
            names = [part if p == "*" else p for p, part in zip(new.split("."), parts, strict=False)]
            return ".".join(names + parts[len(pattern) :])
    return None


def reason_removed(key: str) -> str | None:
    """Why a dotted key, or the group that it was in, is no setting any more; ``None`` where it never was one."""
    return next((reason for old, reason in REMOVED.items() if key == old or key.startswith(f"{old}.")), None)
