"""Loop that drives one study: fill the free slots, collect, record, close, and go on.

It is the only writer of the record. Everything it needs to go on after a kill is in there: a
trial's curves reach as far as its last recorded segment, and there is a checkpoint of that epoch.

Lifecycle of a trial: `_start_trial` (asked for now, or found running), `_submit` (a segment to the
workers), `_record_evaluation`, `_continue` (completed at the budget, pruned at a rung, else
submitted again). A trial that failed is closed by `_fail`. A lost segment is submitted again, from
an earlier checkpoint where its own was lost, too. After Ctrl-C nothing is submitted: the trial
stays running in the record.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.exceptions import StudyError, StudyStoppedError
from hpo_lib.interrupts import first_interrupt_waits
from hpo_lib.objective import CURVES, Objective, Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.checkpoints import StudyFolder, tidy
from hpo_lib.study.lease import LEASE_SECONDS, Lease
from hpo_lib.study.workers.base import Evaluation, Failure, Workers, wait_for_first
from hpo_lib.trials import (
    RecordedTrial,
    StudyRecord,
    TrialOutcome,
    TrialRecord,
    own_trials,
    study_name,
)

Callback = Callable[[optuna.Study, FrozenTrial], bool | None]
StoppingRule = Callable[[optuna.Study], str | None]

_MAX_RERUNS = 2
"""How often a segment whose worker or checkpoint was lost runs again."""


def trial_seed(seed: int, number: int) -> int:
    """Return the seed that a trial trains with: the same for every strategy.

    Args:
        seed: the study's seed.
        number: the trial's number.
    """
    sequence = np.random.SeedSequence((seed, number))
    return int(sequence.generate_state(1)[0])


@dataclass
class _RunningTrial:
    """A trial between its start and its end, as the driver remembers it.

    Attributes:
        number: position in the study.
        trial_id: of the storage.
        record: as it was written last.
        segment: the one that runs now or runs next.
        n_reruns: reruns of the furthest segment so far.
        furthest: the epoch at which that segment ends.
    """

    number: int
    trial_id: int
    record: TrialRecord
    segment: Segment
    n_reruns: int = 0
    furthest: int = 0


@dataclass
class Driver:
    """One run of a study from where its record stands to the end of its budget.

    Attributes:
        study: the study to run.
        storage: the study's storage.
        objective: the function to minimise.
        space: the search space.
        lease: the right to write the study.
        folder: where the trials of the study write.
        n_trials: the budget.
        seed: the study's seed.
        rungs: epochs at which trials may be pruned, rising.
        max_failures: failed trials in a row after which the study stops.
        checkpoint_quota: bytes that the checkpoints of pruned trials may take.
        callback: called after each trial; True ends the study.
        stop: rules that end the study before its budget.
    """

    study: optuna.Study
    storage: BaseStorage
    objective: Objective
    space: SearchSpace
    lease: Lease
    folder: StudyFolder
    n_trials: int
    seed: int
    rungs: tuple[int, ...]
    max_failures: int
    checkpoint_quota: int = 0
    callback: Callback | None = None
    stop: Sequence[StoppingRule] = ()

    def __post_init__(self) -> None:
        self._running: dict[Future[Evaluation], _RunningTrial] = {}
        self._unfinished: deque[int] = deque()
        self._n_begun = 0
        self._failures: list[str] = []
        self._stop_reason: str | None = None
        self._interrupt = threading.Event()

    def run(self, workers: Workers, *, keep_workers: bool) -> None:
        """Go on until the budget is spent, the strategy exhausted, or the study stopped.

        Args:
            workers: where the segments run.
            keep_workers: whether to leave the workers open, unless the study is interrupted.

        Raises:
            KeyboardInterrupt: after Ctrl-C; what ran then was finished and recorded.
        """
        trials = own_trials(self.study)
        self._n_begun = len(trials)
        self._unfinished.extend(trial.number for trial in trials if not trial.is_finished)

        # Remove checkpoints that a killed driver left.
        tidy(self.study, self.folder, self.checkpoint_quota)

        is_finished = False
        with first_interrupt_waits() as self._interrupt:
            try:
                while self._fill_slots(workers):
                    self._collect(workers)
                is_interrupted = self._interrupt.is_set()
                is_finished = not is_interrupted or is_complete(self.study, self.n_trials)
                reason = (self._stop_reason or "budget spent") if is_finished else "interrupted"
                StudyRecord.of(self.study).write(self.study, stopped=reason)
            finally:
                if not (keep_workers and is_finished):
                    workers.close()
        if not is_finished:
            message = f"study {study_name(self.study)!r} stopped; the same call goes on with it"
            raise KeyboardInterrupt(message)

        tidy(self.study, self.folder, self.checkpoint_quota)

    def _fill_slots(self, workers: Workers) -> bool:
        """Give every free slot a segment; False when nothing runs and nothing is left to ask."""
        while not self._interrupt.is_set() and len(self._running) < workers.slots:
            self.lease.check()
            trial = self._next_trial()
            if trial is None:
                break
            self._start_trial(trial, workers)
        return bool(self._running)

    def _next_trial(self) -> optuna.Trial | None:
        # Trials that an earlier driver left running come first, in their order.
        if self._unfinished:
            number = self._unfinished.popleft()
            return optuna.Trial(self.study, self._trial_id(number))

        if self._stop_reason is None and self._is_exhausted():
            self._stop_reason = "every configuration of the strategy was tried"

        if self._n_begun >= self.n_trials:
            return None
        for rule in self.stop:
            self._stop_reason = self._stop_reason or rule(self.study)
        if self._stop_reason is not None:
            return None

        self._n_begun += 1
        return self.study.ask()

    def _is_exhausted(self) -> bool:
        is_exhausted = getattr(self.study.sampler, "is_exhausted", None)
        if is_exhausted is None:
            return False

        queued = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return not queued and is_exhausted(self.study)

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _start_trial(self, trial: optuna.Trial, workers: Workers) -> None:
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        running = _RunningTrial(
            number=trial.number,
            trial_id=self._trial_id(trial.number),
            record=RecordedTrial.from_trial(frozen).record,
            segment=self._segment(trial.number, 0),
        )

        began = time.perf_counter()
        try:
            configuration = self.space.suggest(trial)
        except ValueError as error:
            queued = RecordedTrial.from_trial(frozen).queued_params
            if queued is None:
                raise
            reason = f"queued outside the space: {queued}: {error}"
            self._fail(running, TrialOutcome.FAILED, reason)
            return
        suggest_seconds = time.perf_counter() - began
        if running.record.configuration is None:
            self._write(running, configuration=configuration, suggest_seconds=suggest_seconds)

        # Go on after the last recorded epoch.
        epoch = running.record.n_resumable_epochs
        if epoch:
            running.segment = self._segment_from_checkpoint(running, epoch)
        if epoch and epoch in (running.segment.start, self.objective.budget):
            # The driver may have been killed between this record and the verdict on it.
            self._continue(running, epoch, running.segment.checkpoint, workers)
        else:
            self._submit(running, workers)

    def _segment(self, number: int, start: int, checkpoint: str | None = None) -> Segment:
        """Return the segment of a trial that begins after `start` epochs."""
        budget = self.objective.budget
        return Segment(
            seed=trial_seed(self.seed, number),
            start=start,
            stop=next(rung for rung in (*self.rungs, budget) if rung > start),
            budget=budget,
            checkpoint=checkpoint,
            folder=str(self.folder.make(number)),
            study=self.folder.identity,
        )

    def _segment_from_checkpoint(self, running: _RunningTrial, epoch: int) -> Segment:
        """Return the segment after the last checkpoint up to an epoch that is still there."""
        last = min(epoch, self.objective.budget - 1)
        start = 0
        checkpoint: str | None = None
        for written_after, recorded in running.record.checkpoints.items():
            file = self.folder.find(recorded)
            if file is not None and start < int(written_after) <= last:
                start = int(written_after)
                checkpoint = file
        return self._segment(running.number, start, checkpoint)

    def _continue(
        self, running: _RunningTrial, epoch: int, checkpoint: str | None, workers: Workers
    ) -> None:
        """Complete the trial at its budget, prune it at a rung, or submit its next segment."""
        if epoch == self.objective.budget:
            self.study.tell(running.number, running.record.validation_error[-1])
            self._failures.clear()
            self._close(running)
        elif epoch in self.rungs and self._should_prune(running):
            self._prune(running, epoch)
        else:
            running.segment = self._segment(running.number, epoch, checkpoint)
            self._submit(running, workers)

    def _should_prune(self, running: _RunningTrial) -> bool:
        # A trial that began anew may have reported more before: the pruner sees it as it stands.
        trial = copy.copy(self.study.get_trials(deepcopy=False)[running.number])
        trial.intermediate_values = dict(enumerate(running.record.validation_error, start=1))
        return not running.record.promoted and self.study.pruner.prune(self.study, trial)

    def _submit(self, running: _RunningTrial, workers: Workers) -> None:
        if self._interrupt.is_set():
            return  # left running in the record: the next driver goes on with it

        if running.segment.stop > running.furthest:
            running.n_reruns = 0
            running.furthest = running.segment.stop
        configuration = running.record.configuration or {}
        future = workers.submit(self.objective, configuration, running.segment)
        self._running[future] = running

    def _collect(self, workers: Workers) -> None:
        """Wait for segments to end, and record them in the order of their trials."""
        done = wait_for_first(workers, self._running, LEASE_SECONDS / 4)
        self.lease.check()

        errors: list[StudyError] = []
        for future in sorted(done, key=lambda item: self._running[item].number):
            running = self._running.pop(future)
            try:
                self._record_evaluation(running, future.result(), workers)
            except StudyError as error:  # not before the others are recorded, too
                errors.append(error)
        if errors:
            raise errors[0]

    def _record_evaluation(
        self, running: _RunningTrial, evaluation: Evaluation, workers: Workers
    ) -> None:
        result = evaluation.outcome
        if isinstance(result, Failure):
            self._record_failure(running, evaluation, result, workers)
            return

        epoch = running.segment.stop
        changes = _span(running, evaluation) | self._extended_record(running, result)
        problem = _why_diverged(result)
        if problem is None and epoch == self.objective.budget:
            changes["status"] = TrialOutcome.COMPLETED.value

        # Values first, record second: the length of the record is authoritative.
        errors = enumerate(result.validation_error, start=running.segment.start + 1)
        for step, error in errors:
            if math.isfinite(error):
                self.storage.set_trial_intermediate_value(running.trial_id, step, error)

        if problem is None:
            self._write(running, **changes)
            self._continue(running, epoch, result.checkpoint, workers)
        else:
            self._fail(running, TrialOutcome.DIVERGED, problem, **changes)

    def _extended_record(self, running: _RunningTrial, result: SegmentResult) -> dict[str, Any]:
        """Return the curves with a segment's epochs at their end, and its checkpoint."""
        changes: dict[str, Any] = {}
        for name in CURVES:
            earlier = getattr(running.record, name)[: running.segment.start]
            changes[name] = (*earlier, *getattr(result, name))

        if result.checkpoint is not None:
            file = self.folder.recorded(result.checkpoint)
            epoch = str(running.segment.stop)
            changes["checkpoints"] = {**running.record.checkpoints, epoch: file}
        return changes

    def _record_failure(
        self, running: _RunningTrial, evaluation: Evaluation, failure: Failure, workers: Workers
    ) -> None:
        if failure.status == "disk_full":
            message = (
                f"no space for a file of trial {running.number}: {failure.reason}; what was "
                "recorded before is safe, and the same call goes on once there is space"
            )
            raise StudyError(message)

        is_lost = failure.status in ("lost", "no_checkpoint")
        if is_lost and running.n_reruns < _MAX_RERUNS:
            self._rerun(running, failure, workers)
            return

        changes = _span(running, evaluation)
        changes["failed_seconds"] = evaluation.finished - evaluation.started
        outcome = TrialOutcome.LOST if is_lost else TrialOutcome(failure.status)
        self._fail(running, outcome, failure.reason, traceback=failure.traceback, **changes)

    def _rerun(self, running: _RunningTrial, failure: Failure, workers: Workers) -> None:
        running.n_reruns += 1
        if failure.status == "no_checkpoint":
            # First rerun: the previous checkpoint. Second rerun: from the beginning.
            last = running.segment.start - 1 if running.n_reruns < _MAX_RERUNS else 0
            running.segment = self._segment_from_checkpoint(running, last)
        self._submit(running, workers)

    def _write(self, running: _RunningTrial, **changes: Any) -> None:
        running.record = replace(running.record, **changes)
        running.record.write(self.storage, running.trial_id)

    def _fail(
        self, running: _RunningTrial, outcome: TrialOutcome, reason: str, **changes: Any
    ) -> None:
        """Close a trial without a value; stop the study after too many of them in a row."""
        self._write(running, status=outcome.value, reason=reason, **changes)
        self.study.tell(running.number, state=TrialState.FAIL)
        self._close(running)

        configuration = running.record.configuration or {}
        self._failures.append(f"trial {running.number} {configuration}: {reason}")

        if len(self._failures) >= self.max_failures:
            listed = "\n  ".join(self._failures)
            message = (
                f"{len(self._failures)} trials failed in a row "
                f"(max_failures={self.max_failures}), study {study_name(self.study)!r} stopped; "
                f"what finished is recorded:\n  {listed}"
            )
            StudyRecord.of(self.study).write(self.study, stopped=message)
            raise StudyStoppedError(message)

    def _prune(self, running: _RunningTrial, epoch: int) -> None:
        value = running.record.validation_error[-1]
        reason = f"stopped at {value:.4f} after {epoch} of {self.objective.budget} epochs"
        self._write(running, status=TrialOutcome.PRUNED.value, reason=reason)
        self.study.tell(running.number, state=TrialState.PRUNED)
        self._failures.clear()
        self._close(running)

    def _close(self, running: _RunningTrial) -> None:
        """Remove the checkpoints of a trial that has ended, and call the callback."""
        tidy(self.study, self.folder, self.checkpoint_quota)
        if self.callback is None:
            return
        trial = self.storage.get_trial(running.trial_id)
        if self.callback(self.study, trial) is True:
            self._stop_reason = "stopped by the callback"


def is_complete(study: optuna.Study, n_trials: int) -> bool:
    """Return whether a study has spent a budget and nothing was left running.

    Args:
        study: a study of `run_study`.
        n_trials: the budget.
    """
    trials = own_trials(study)
    return len(trials) >= n_trials and all(trial.is_finished for trial in trials)


def _span(running: _RunningTrial, evaluation: Evaluation) -> dict[str, Any]:
    """Return where and when a segment ran, as fields of the trial's record."""
    span: dict[str, Any] = {"worker": evaluation.worker, "finished": evaluation.finished}
    if running.segment.start == 0:
        span["started"] = evaluation.started
    return span


def _why_diverged(result: SegmentResult) -> str | None:
    if result.status == "diverged":
        return f"the loss stopped being finite after {len(result.validation_error)} epochs"

    errors = result.validation_error
    if not errors or not all(map(math.isfinite, errors)):
        return f"the objective returned {errors}, not finite numbers"
    return None
