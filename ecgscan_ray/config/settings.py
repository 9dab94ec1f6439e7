"""All settings of one run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, ValidationError, model_validator

from ecgscan_ray.config.finetune import FinetuneConfig
from ecgscan_ray.config.model import ModelConfig
from ecgscan_ray.config.objective import ObjectiveConfig, TeacherConfig
from ecgscan_ray.config.page import PageConfig, PageKind, RectifierConfig
from ecgscan_ray.config.run import EvaluationConfig, ResourceConfig, StreamConfig, TrainingConfig
from ecgscan_ray.config.section import Section

MAX_UNIT_BYTES = 32 * 2**20
"""Of one block: Ray Data splits larger ones."""

SAMPLE_BYTES = (
    4 * (384 * 512 * 3 + 3 * 48 * 64 * 4) + 320 * 320 * 3 + 24 * 40 * 40 * 4 + 240 * 1024 * 3 + 1024 * 5 + 128
)
"""Bytes of one row of the rectifier's batch (``reading.maker.SampleBatch``), keys included."""


class Config(Section):
    """All settings of one run."""

    seed: int = Field(0, ge=0)
    """Of weights, order, pages and dropout: the same seed gives the same run."""
    page: PageConfig = PageConfig()
    stream: StreamConfig = StreamConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    teacher: TeacherConfig = TeacherConfig()
    rectifier: RectifierConfig | None = None
    """Given = a run of ``ecgscan rectifier``; none = of another command."""
    finetune: FinetuneConfig | None = None
    """Given = a run of ``ecgscan finetune``; none = of another command."""
    training: TrainingConfig = TrainingConfig(steps=100)
    resources: ResourceConfig = ResourceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _units_fit(self) -> Config:
        batch, workers, rows = self.training.global_batch_size, self.resources.num_workers, self.stream.unit_rows
        if batch % ((rows or 1) * workers):
            factors = (
                f"resources.num_workers = {workers}"
                if rows is None
                else f"stream.unit_rows x resources.num_workers = {rows} x {workers}"
            )
            raise ValueError(f"training.global_batch_size={batch} is no multiple of {factors}")
        return self

    @model_validator(mode="after")
    def _kinds_are_pages(self) -> Config:
        self.page_kinds()
        return self

    def page_kinds(self) -> list[tuple[float, PageConfig]]:
        """Share and settings of each kind of page: those of ``rectifier.pages``, or ``page`` alone.

        Raises:
            ValueError: A kind's settings are none of ``page``, or out of their range.
        """
        kinds = self.rectifier.pages if self.rectifier else ()
        return [(kind.share, self._page_of(number, kind)) for number, kind in enumerate(kinds)] or [(1.0, self.page)]

    def _page_of(self, number: int, kind: PageKind) -> PageConfig:
        content = self.page.model_dump()
        if kind.page.get("effects", self.page.effects) != self.page.effects:
            content |= {"effect_probabilities": {}, "effect_ranges": {}}
        try:
            return PageConfig.model_validate(content | kind.page)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])[:80]
            raise ValueError(f"rectifier.pages.{number}.page.{key}: {fault['msg']}") from None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a block: page or what was read of it, leads with masks, text and keys; or a rectifier's samples."""
        if self.rectifier is not None:
            return SAMPLE_BYTES
        page = self.page.height * self.page.width * self.page.channels
        return (page if self.model.input == "image" else 26 * self.model.sig_len) + 24 * self.model.sig_len + 2048

    @property
    def unit_rows(self) -> int:
        """Rows of a unit: ``stream.unit_rows``, derived where it is not given."""
        if self.stream.unit_rows is not None:
            return self.stream.unit_rows
        share = self.training.global_batch_size // self.resources.num_workers
        most = max(1, MAX_UNIT_BYTES // self.row_bytes)
        return max(rows for rows in range(1, min(share, most) + 1) if share % rows == 0)

    def validated_between_steps(self) -> Config:
        """The same for a run that asks for its score at each checkpoint."""
        training = self.training.model_copy(update={"validate_beside": False})
        return self.model_copy(update={"training": training})

    def training_identity(self) -> dict[str, Any]:
        """The settings that decide the run's outcome; a resumed run may differ in all others.

        Left out: workers and CPUs, evaluation, logging, checkpoint frequency, where validation runs, prefetching, timeouts,
        how the same step is computed, and the teacher's URI (not whether there is a teacher).
        """
        free: dict[str, Any] = {
            "resources": True,
            "evaluation": True,
            "stream": {"prefetch_units", "stall_timeout_s"},
            "training": {
                *("log_every", "term_gradients_every", "sinks", "checkpoint_every"),
                *("activation_checkpointing", "compile", "validate_beside"),
            },
        }
        content = self.model_dump(mode="json", exclude=free)
        content["teacher"]["run"] = "given" if self.teacher.run else None
        return content

    def digest(self) -> str:
        """sha256 of what decides the run's outcome."""
        return hashlib.sha256(json.dumps(self.training_identity(), sort_keys=True).encode()).hexdigest()
