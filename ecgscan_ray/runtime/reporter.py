"""The step loop's link to Ray Train: checkpoints are stored while training goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import ray.train
import ray.train.collective
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode

from ecgscan_ray.errors import StoreError, UnreachableError
from ecgscan_ray.filesystem.retry import PATIENCE_S, is_permanent
from ecgscan_ray.runs.metrics import RunLog
from ecgscan_ray.runtime.failures import first_line, permanent_failure

logger = logging.getLogger(__name__)

StopRule = Callable[[int, dict[str, float]], bool]
"""(step, metrics) -> whether the run should end here; asked with every checkpoint."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
MAX_WAITING = 2
"""Checkpoints on this machine that are not stored yet; the next one waits, so that they do not fill the disk."""


class RayReporter:
    """Hands metrics and checkpoints to Ray Train.

    Args:
        stop_rule: Ends the run early.
        local: Folder on this machine for checkpoints on their way.
        log: Metric lines, written before the checkpoint that they lead to (rank 0 only).
        validate: Whether Ray Train measures each checkpoint once it is stored.
    """

    def __init__(self, stop_rule: StopRule | None, local: Path, log: RunLog | None, validate: bool = False) -> None:
        self._stop_rule, self._local, self._log, self._validate = stop_rule, local, log, validate
        self._resumed: Path | None = None
        self._room = threading.BoundedSemaphore(MAX_WAITING)
        self._failing_since: float | None = None

    def last_checkpoint(self) -> Path | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint:
            self._resumed = Path(checkpoint.to_directory(str(self._local / Path(checkpoint.path).name)))
        return self._resumed

    def new_folder(self) -> Path:
        self._room.acquire()
        return Path(mkdtemp(dir=self._local))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        if self._resumed:  # restored before
            shutil.rmtree(self._resumed, ignore_errors=True)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(str(checkpoint)) if checkpoint else None,
            checkpoint_dir_name=f"checkpoint_{int(metrics['step']):09d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self.store,
            validation=self._validate and checkpoint is not None,
        )

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        if self._stop_rule is None:
            return False
        stop = self._stop_rule(step, metrics) if ray.train.get_context().get_world_rank() == 0 else False
        return bool(ray.train.collective.broadcast_from_rank_zero(stop))

    def close(self) -> None:
        """Wait until all that was reported is stored; validations go on when the workers are gone."""
        ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)

    def store(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Called in a thread of Ray Train, for one checkpoint after the other; repeated while the storage fails."""
        storage, pause = ray.train.get_context().get_storage(), FIRST_PAUSE_S
        while True:
            try:
                if self._log:
                    self._log.flush()
                stored = storage.persist_current_checkpoint(checkpoint, name)
                break
            except Exception as error:
                self._raise_if_hopeless(error, name)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        if self._failing_since is not None:
            logger.warning("%s is stored: the storage of the run works again", name)
            self._failing_since = None
        shutil.rmtree(checkpoint.path, ignore_errors=True)
        self._room.release()
        return stored

    def _raise_if_hopeless(self, error: Exception, name: str) -> None:
        """Say that training goes on without its checkpoint, or raise what another attempt would meet again.

        Raises:
            StoreError: The storage has failed for too long.
        """
        if not isinstance(error, UnreachableError) and (is_permanent(error) or permanent_failure(error)):
            raise error
        reason = str(error) if isinstance(error, UnreachableError) else first_line(error)
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        left = self._failing_since + PATIENCE_S - now
        if left < 0:
            what = f"{name} could not be stored for {PATIENCE_S / 60:.0f} minutes ({reason})"
            raise StoreError(what, fix="The same command goes on from the last checkpoint that is stored.") from error
        logger.warning(
            "%s is not stored yet (%s): training goes on, and stops if that lasts another %.0f s",
            *(name, reason, left),
        )
