"""Every setting, with unit, range and default; presets and dotted overrides become one frozen object.

One way to change a value: ``merge`` takes dotted keys (``objective.gram_weight=0.5``) from the command line, from a
YAML file or from a sweep's trial alike. Unknown keys are refused with the nearest known one.
"""

from collections.abc import Mapping
from typing import Any

from ecgscan_ray.config.ablation import AblationConfig
from ecgscan_ray.config.finetune import FinetuneConfig
from ecgscan_ray.config.loading import (
    build,
    by_key,
    dump_yaml,
    load,
    merge,
    parse_overrides,
    preset_names,
    read_settings,
    read_yaml,
    unknown_setting,
)
from ecgscan_ray.config.model import (
    DecoderConfig,
    ExternalEncoderConfig,
    ImageTowerConfig,
    ModelConfig,
    SignalTowerConfig,
    TextTowerConfig,
)
from ecgscan_ray.config.objective import ObjectiveConfig, Schedule, TeacherConfig
from ecgscan_ray.config.page import PageConfig, PageKind, RectifierConfig
from ecgscan_ray.config.run import AugmentConfig, EvaluationConfig, ResourceConfig, StreamConfig, TrainingConfig
from ecgscan_ray.config.section import Section
from ecgscan_ray.config.settings import MAX_UNIT_BYTES, Config
from ecgscan_ray.config.sweep import SearchRange, SweepConfig


def kind_of(content: Mapping[str, Any]) -> type[Config] | type[SweepConfig] | type[AblationConfig]:
    """What a file with this content configures: a sweep has a ``space``, an ablation has ``arms``."""
    return SweepConfig if "space" in content else AblationConfig if "arms" in content else Config


__all__ = [
    "MAX_UNIT_BYTES",
    "AblationConfig",
    "AugmentConfig",
    "Config",
    "DecoderConfig",
    "EvaluationConfig",
    "ExternalEncoderConfig",
    "FinetuneConfig",
    "ImageTowerConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PageConfig",
    "PageKind",
    "RectifierConfig",
    "ResourceConfig",
    "Schedule",
    "SearchRange",
    "Section",
    "SignalTowerConfig",
    "StreamConfig",
    "SweepConfig",
    "TeacherConfig",
    "TextTowerConfig",
    "TrainingConfig",
    "build",
    "by_key",
    "dump_yaml",
    "kind_of",
    "load",
    "merge",
    "parse_overrides",
    "preset_names",
    "read_settings",
    "read_yaml",
    "unknown_setting",
]
