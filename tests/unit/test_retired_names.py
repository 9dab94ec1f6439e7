"""Names that were replaced by the field's terms do not come back: neither as a variable, nor an argument, function or class.

A row of a table is: where the old names meant what the new ones say, then ``old=new``. English words are retired only in
the files where they were names of that kind; a path that ends in ``/`` is a folder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ("ecgscan_ray/",)
ALL = ("ecgscan_ray/", "benchmarks/", "jobs/", "scripts/", "tests/", "tools/")

RETIRED: list[tuple[tuple[str, ...], str]] = [
    # room by room
    (("ecgscan_ray/runtime/", "ecgscan_ray/store/"), "Said=TeacherEmbeddings said=teacher_embeddings"),
    (ALL, "said_by_teacher=compute_or_load_teacher_embeddings"),
    (ALL, "say_of_signal=embed_signal say_of_report=embed_report FillIn=SignalReconstructionHead"),
    (("ecgscan_ray/model/",), "adopt=load_teacher hide=mask_spans fill=reconstruct_masked"),
    (("ecgscan_ray/model/teacher.py",), "left=visible span=span_len"),
    (ALL, "under_teacher=with_teacher_settings OF_THE_TEACHER=TEACHER_MODEL_KEYS"),
    (ALL, "_take_first_weights=initialize_weights"),
    (ALL, "SignalReader=SignalEncoder ReportReader=TextEncoder ExternalReader=ExternalSignalEncoder"),
    (("ecgscan_ray/model/",), "read=pool read_map=pool_map embed_map=pool_map"),
    (("ecgscan_ray/model/",), "level=content heart=pooled heart_level=content_head LevelPool=MeanMaxPool"),
    (("ecgscan_ray/model/",), "Places=LayoutGrid Group=LeadGroup Found=FramePrediction inside=apply_homography"),
    (("ecgscan_ray/model/",), "read_rows=sample_rows RowGrid=RowSampler near=corner_votes edges=edge_votes nil=zero"),
    (("ecgscan_ray/model/",), "_small_move=homography_jacobian"),
    (("ecgscan_ray/model/decoder.py",), "algebra=lead_mixing together=per_moment_mlp along=column_conv"),
    (("ecgscan_ray/model/decoder.py",), "over_time=time_conv ink=trace_attention"),
    (("ecgscan_ray/training/",), "_asked=_output_grads _demands=_backward_targets _joined=_concat_outputs"),
    (("ecgscan_ray/training/",), "_alone=_no_sync by_term=per_term_norms Gradients=GradCache"),
    (("ecgscan_ray/training/",), "losses_of=build_loss Measure=MetricsFn _finite=raise_if_not_finite"),
    (("ecgscan_ray/training/",), "_rows_key=batch_fingerprint due=THE_THING saves=THE_THING extra=THE_THING"),
    (("ecgscan_ray/objective/blockwise.py",), "Comparison=PairMask barred=excluded own=positives unit=normalizer"),
    (("ecgscan_ray/objective/blockwise.py",), "_Pulled=_Gradients pull=backward share=column_term slope=dlogits"),
    (("ecgscan_ray/objective/",), "Items=GatheredFeatures planes=gram_schmidt across=orthogonal even=equal_rows"),
    (("ecgscan_ray/objective/",), "triple=triplet_score"),
    (ALL, "mask_same=mask_false_negatives centre_teachers=center_targets"),
    (ALL, "decisive=training_identity pair_shares=pair_weights withhold_signals=drop_signal_fraction"),
    (("ecgscan_ray/config/",), "rise=warmup end=final_factor sizes=effect_ranges clip=amplitude_clip"),
    (ALL, "flatten_px=background_box_px read_mv=sample_range_mv read_px=sample_rows segment_s=cell_s"),
    (ALL, "hidden_share=mask_ratio view_weight=masked_view_weight deep_header=max_extra_header"),
    (ALL, "chances=effect_probabilities chest_half_gain=half_gain_precordial_probability"),
    (("ecgscan_ray/paper/",), "WINDOWS=MAX_STRIPS DRAWN_AT=SUPERSAMPLING FINE=NATIVE_PX_PER_MM"),
    (ALL, "stop_behind=prune_quantile grace_reports=prune_grace TrialBook=TrialStore Verdict=Comparison"),
    (ALL, "_Told=TrialLogger _Listed=ListSearcher _UntilDeadline=DeadlineOptuna"),
    (("ecgscan_ray/config/", "ecgscan_ray/runtime/"), "against=baseline concurrent=max_concurrent points=grid"),
    (("ecgscan_ray/runtime/",), "conclude=write_report Source=RunSpec"),
    (("ecgscan_ray/runtime/", "ecgscan_ray/runs/"), "claim=open_run Standing=RunStatus _kept=checkpoint_policy"),
    (("ecgscan_ray/runtime/",), "Pace=SchedulerThrottle _spoken=printable_environment"),
    (("ecgscan_ray/runtime/prepare.py",), "left=rejected Left=RejectedRow _left=reject _usable=read_checked"),
    (("ecgscan_ray/runtime/prepare.py",), "_OURS=STORE_FILE _with_patients=count_patients"),
    (("ecgscan_ray/paper/",), "heated=thermal_fade faxed=binarize ringed=coffee_ring creased=crease_shading"),
    (("ecgscan_ray/paper/",), "crumpled=facet_shading write_on=handwriting bare_rim=blank_margin lay=warp_onto"),
    (("ecgscan_ray/paper/",), "_bent=fold_shading _more=extra_uniforms"),
    (("ecgscan_ray/paper/write.py",), "_unlike=reject_duplicate_names _spread=map_in_processes"),
    (("ecgscan_ray/paper/write.py",), "_own=process_writer Files=OutputOptions"),
    (("ecgscan_ray/cli.py",), "_talk=setup_logging _place=check_uri _named=preset_or_file _show=print_mapping"),
    (("ecgscan_ray/cli.py",), "_figure=format_estimate _Verbs=CommandGroup"),
    # one word for many things
    (ALL, "Plan=EpochPlan,BlockPlan,PageEffects _Plan=TrialSettings"),
    (PACKAGE, "place=uri,position,layout_geometry,xy"),
    (PACKAGE, "found=THE_THING kept=THE_THING chosen=THE_THING told=THE_THING some=THE_THING"),
    (PACKAGE, "mine=THE_THING theirs=THE_THING drawn=THE_THING"),
]


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that the code gives a name to; the names of other libraries are only used."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str()) | ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()):
                yield getattr(node, "lineno", 0), getattr(node, "asname", None) or node.name  # type: ignore[union-attr]


def retired(path: str) -> dict[str, str]:
    """Old name -> new name for this file."""
    tables = [names for places, names in RETIRED if path.startswith(places)]
    return dict(pair.split("=") for names in tables for pair in names.split())


@pytest.mark.parametrize("folder", ALL)
def test_no_retired_name_comes_back(folder: str) -> None:
    complaints = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        instead = retired(path)
        complaints += [
            f"{path}:{line}: {name}: say {'what it holds' if instead[name] == 'THE_THING' else instead[name]}"
            for line, name in bound_names(ast.parse(file.read_text()))
            if name in instead
        ]
    assert not complaints, "\n" + "\n".join(complaints)
