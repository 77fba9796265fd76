"""The loop that drives one study: fill the free slots, collect, record, close, and go on.

It is the only writer of the record. Everything it needs to go on after a kill is in there: a
trial's curves reach as far as its last recorded segment, and there is a checkpoint of that epoch.

A trial's way: `_start` (asked for now, or found running), `_submit` (a segment to the workers),
`_record` (what it came to), `_go_on` (closed at the budget, pruned at a rung, else submitted
again). Off it: what failed is closed by `_fail`; what was lost is submitted again, from an earlier
checkpoint if need be; after Ctrl-C nothing is submitted: the trial stays running in the record.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo_lib.exceptions import StudyError, StudyStoppedError
from hpo_lib.objective import CURVES, Objective, Segment, SegmentResult
from hpo_lib.space.search_space import Configuration, SearchSpace
from hpo_lib.study.checkpoints import StudyFolder
from hpo_lib.study.interrupts import first_interrupt_waits
from hpo_lib.study.storage import LEASE_SECONDS, Lease
from hpo_lib.study.study_file import set_trial_attributes
from hpo_lib.study.workers.base import Evaluation, Failure, Workers, wait_for_first

Callback = Callable[[optuna.Study, FrozenTrial], bool | None]
StoppingRule = Callable[[optuna.Study], str | None]

_RERUNS = 2
"""How often a segment whose worker or checkpoint was lost runs again."""


def trial_seed(seed: int, number: int) -> int:
    """The seed that trial `number` trains with: the same for every strategy."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


@dataclass
class _Running:
    number: int
    trial_id: int
    configuration: Configuration
    segment: Segment
    lost: int = 0  # times that the furthest segment so far was lost
    reached: int = 0  # the epoch at which that one ends


@dataclass
class Driver:
    """One run of a study from where its record stands to the end of its budget."""

    study: optuna.Study
    backend: BaseStorage
    objective: Objective
    space: SearchSpace
    lease: Lease
    n_trials: int
    seed: int
    rungs: tuple[int, ...]
    max_failures: int
    callback: Callback | None
    stop: Sequence[StoppingRule] = ()
    folder: StudyFolder = field(init=False)
    running: dict[Future[Evaluation], _Running] = field(default_factory=lambda: {})
    waiting: deque[FrozenTrial] = field(default_factory=lambda: deque[FrozenTrial]())
    reasons: list[str] = field(default_factory=lambda: [])
    stopped: str | None = None
    interrupt: threading.Event = field(default_factory=threading.Event)

    def is_complete(self) -> bool:
        """Whether the budget is spent and nothing was left running."""
        trials = own_trials(self.study)
        return len(trials) >= self.n_trials and all(t.state.is_finished() for t in trials)

    def run(self, workers: Workers, folder: StudyFolder, *, keep_workers: bool) -> None:
        """Go on until the budget is spent, the strategy exhausted, or somebody stops it.

        Args:
            workers: where the segments run.
            folder: where the trials of this study write.
            keep_workers: whether the workers are the caller's, to be closed when it is stopped
                only.

        Raises:
            KeyboardInterrupt: after Ctrl-C; what ran then was finished and recorded.
        """
        self.folder = folder
        unfinished = (t for t in own_trials(self.study) if t.state == TrialState.RUNNING)
        self.waiting.extend(unfinished)
        finished = False
        with first_interrupt_waits() as self.interrupt:
            try:
                while self._fill(workers):
                    self._collect(workers)
                finished = not self.interrupt.is_set() or self.is_complete()
                reason = (self.stopped or "budget spent") if finished else "interrupted"
                self.study.set_user_attr("stopped", reason)
            finally:
                if not (keep_workers and finished):
                    workers.close()
        if not finished:
            message = f"study {self.study.study_name!r} stopped; the same call goes on with it"
            raise KeyboardInterrupt(message)
        # a driver killed between the verdict on a trial and its end has left some
        folder.clear_all(trial.number for trial in own_trials(self.study))

    def _fill(self, workers: Workers) -> bool:
        """Give every free slot a segment; False when nothing runs and nothing is left to ask."""
        while not self.interrupt.is_set() and len(self.running) < workers.slots:
            self.lease.check()
            trial = self._next_trial()
            if trial is None:
                break
            self._start(trial, workers)
        return bool(self.running)

    def _next_trial(self) -> optuna.Trial | None:
        if self.waiting:
            return optuna.Trial(self.study, self._trial_id(self.waiting.popleft().number))
        if self.stopped is None and self._exhausted():
            self.stopped = "every configuration of the strategy was tried"
        if len(own_trials(self.study)) >= self.n_trials:
            return None
        for rule in self.stop:
            self.stopped = self.stopped or rule(self.study)
        if self.stopped is not None:
            return None
        return self.study.ask()

    def _exhausted(self) -> bool:
        is_exhausted = getattr(self.study.sampler, "is_exhausted", None)
        if is_exhausted is None:
            return False
        queued = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return not queued and is_exhausted(self.study)

    @cached_property
    def _study_id(self) -> int:
        return self.backend.get_study_id_from_name(self.study.study_name)

    def _trial_id(self, number: int) -> int:
        return self.backend.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _start(self, trial: optuna.Trial, workers: Workers) -> None:
        began = time.perf_counter()
        try:
            configuration = self.space.suggest(trial)
        except ValueError as error:
            queued = self.backend.get_trial(self._trial_id(trial.number)).system_attrs
            if "fixed_params" not in queued:
                raise
            reason = f"queued outside the space: {queued['fixed_params']}: {error}"
            segment = self._segment(trial.number, 0)
            running = _Running(trial.number, self._trial_id(trial.number), {}, segment)
            self._fail(running, "failed", reason, "")
            return
        deciding = time.perf_counter() - began
        record = trial.user_attrs
        if "configuration" not in record:
            chosen = {"deciding_seconds": deciding, "configuration": configuration}
            set_trial_attributes(self.backend, self._trial_id(trial.number), chosen)
        curve = record.get("validation_error", ())
        done = len(curve) if all(map(math.isfinite, curve)) else 0
        segment = self._segment(trial.number, 0)
        running = _Running(trial.number, self._trial_id(trial.number), configuration, segment)
        if done:
            running.segment = segment = self._last_checkpoint(running, done)
        if done and done in (segment.start, self.objective.budget):
            # it may have been killed between this record and the verdict on it
            self._go_on(running, done, segment.checkpoint, workers)
        else:
            self._submit(running, workers)

    def _last_checkpoint(self, running: _Running, epoch: int) -> Segment:
        """The segment that follows the last checkpoint, up to an epoch, that is still there."""
        recorded = self.backend.get_trial(running.trial_id).user_attrs.get("checkpoints", {})
        last = min(epoch, self.objective.budget - 1)
        places = {int(e): self.folder.find(file) for e, file in recorded.items()}
        start = max((e for e, file in places.items() if e <= last and file), default=0)
        return replace(self._segment(running.number, start), checkpoint=places.get(start))

    def _segment(self, number: int, start: int) -> Segment:
        budget = self.objective.budget
        stop = next(rung for rung in (*self.rungs, budget) if rung > start)
        seed, folder = trial_seed(self.seed, number), str(self.folder.make(number))
        return Segment(seed, start, stop, budget, None, folder, self.folder.identity)

    def _go_on(
        self, running: _Running, epoch: int, checkpoint: str | None, workers: Workers
    ) -> None:
        """Close the trial at the end of its budget or at a rung, or send out its next segment."""
        trial = self.backend.get_trial(running.trial_id)
        if epoch == self.objective.budget:
            self._close(running, trial.intermediate_values[epoch])
        elif epoch in self.rungs and self.study.pruner.prune(self.study, _as_of(trial, epoch)):
            self._prune(running, trial.intermediate_values[epoch], epoch)
        else:
            running.segment = replace(self._segment(running.number, epoch), checkpoint=checkpoint)
            self._submit(running, workers)

    def _submit(self, running: _Running, workers: Workers) -> None:
        if self.interrupt.is_set():
            return  # left running in the record: the next driver goes on with it
        if running.segment.stop > running.reached:
            running.lost, running.reached = 0, running.segment.stop
        future = workers.submit(self.objective, running.configuration, running.segment)
        self.running[future] = running

    def _collect(self, workers: Workers) -> None:
        done = wait_for_first(workers, self.running, LEASE_SECONDS / 4)
        self.lease.check()
        errors: list[StudyError] = []
        for future in sorted(done, key=lambda item: self.running[item].number):
            try:
                self._record(self.running.pop(future), future.result(), workers)
            except StudyError as error:  # not before the others are recorded, too
                errors.append(error)
        if errors:
            raise errors[0]

    def _record(self, running: _Running, evaluation: Evaluation, workers: Workers) -> None:
        outcome = evaluation.outcome
        if isinstance(outcome, Failure):
            self._record_failure(running, evaluation, outcome, workers)
            return
        bad = _why_not_a_value(outcome)
        whole = bad is None and running.segment.stop == self.objective.budget
        status = {"status": "completed"} if whole else {}
        self._append_curves(running, outcome, _span(running, evaluation) | status)
        if bad is not None:
            self._fail(running, "diverged", bad, "")
        else:
            self._go_on(running, running.segment.stop, outcome.checkpoint, workers)

    def _record_failure(
        self, running: _Running, evaluation: Evaluation, failure: Failure, workers: Workers
    ) -> None:
        if failure.status == "disk_full":
            message = (
                f"no space for a file of trial {running.number}: {failure.reason}; what was "
                "recorded before is safe, and the same call goes on once there is space"
            )
            raise StudyError(message)
        lost = failure.status in ("lost", "no_checkpoint")
        if lost and running.lost < _RERUNS:
            running.lost += 1
            if failure.status == "no_checkpoint":
                # the one before; refused, too, they are all of other data or another study
                before = running.segment.start - 1 if running.lost < _RERUNS else 0
                running.segment = self._last_checkpoint(running, before)
            self._submit(running, workers)
            return
        lasted = {"failed_seconds": evaluation.finished - evaluation.started}
        self._set(running, _span(running, evaluation) | lasted)
        status = "lost" if lost else failure.status
        self._fail(running, status, failure.reason, failure.traceback)

    def _append_curves(
        self, running: _Running, result: SegmentResult, attributes: dict[str, Any]
    ) -> None:
        start = running.segment.start
        recorded = self.backend.get_trial(running.trial_id).user_attrs if start else {}
        if result.checkpoint is not None:
            # by epoch: a driver killed before the curves are written goes on from the one before
            files = recorded.get("checkpoints", {})
            written = {str(running.segment.stop): self.folder.recorded(result.checkpoint)}
            attributes["checkpoints"] = {**files, **written}
        for name in CURVES:
            values = [float(value) for value in getattr(result, name)]
            attributes[name] = [*recorded.get(name, ())[:start], *values]
        errors = enumerate(result.validation_error, start=start + 1)
        finite = {epoch: float(error) for epoch, error in errors if math.isfinite(error)}
        self._set(running, attributes, finite)

    def _set(
        self, running: _Running, attributes: dict[str, Any], values: dict[int, float] | None = None
    ) -> None:
        set_trial_attributes(self.backend, running.trial_id, attributes, values)

    def _fail(self, running: _Running, status: str, reason: str, traceback: str) -> None:
        self._set(running, {"status": status, "reason": reason, "traceback": traceback})
        self.study.tell(running.number, state=TrialState.FAIL)
        self._closed(running)
        self.reasons.append(f"trial {running.number} {running.configuration}: {reason}")
        if len(self.reasons) >= self.max_failures:
            listed = "\n  ".join(self.reasons)
            message = (
                f"{len(self.reasons)} trials failed in a row (max_failures={self.max_failures}), "
                f"study {self.study.study_name!r} stopped; what finished is recorded:\n  {listed}"
            )
            self.study.set_user_attr("stopped", message)
            raise StudyStoppedError(message)

    def _close(self, running: _Running, value: float) -> None:
        self.study.tell(running.number, value)
        self.reasons.clear()
        self._closed(running)

    def _prune(self, running: _Running, value: float, epoch: int) -> None:
        reached = f"stopped at {value:.4f} after {epoch} of {self.objective.budget} epochs"
        self._set(running, {"status": "pruned", "reason": reached})
        self.study.tell(running.number, state=TrialState.PRUNED)
        self.reasons.clear()
        self._closed(running)

    def _closed(self, running: _Running) -> None:
        self.folder.clear(running.number)
        if self.callback is not None:
            trial = self.backend.get_trial(running.trial_id)
            if self.callback(self.study, trial) is True:
                self.stopped = "stopped by the callback"


def _span(running: _Running, evaluation: Evaluation) -> dict[str, Any]:
    first = {"started": evaluation.started} if running.segment.start == 0 else {}
    return {**first, "worker": evaluation.worker, "finished": evaluation.finished}


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count as budget: asked for, and not copied from another study."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and "evidence" not in trial.user_attrs
    ]


def training_seconds(trial: FrozenTrial) -> float:
    """Those of a trial's epochs, and of the segment in which it failed, whose epochs are lost."""
    record = trial.user_attrs
    return float(sum(record.get("seconds", ()))) + record.get("failed_seconds", 0.0)


def spent_seconds(trial: FrozenTrial) -> float:
    """Those of training it and of deciding on it."""
    return training_seconds(trial) + trial.user_attrs.get("deciding_seconds", 0.0)


def _as_of(trial: FrozenTrial, epoch: int) -> FrozenTrial:
    """The trial as it stood at an epoch: one that starts again was recorded further before."""
    known = {step: value for step, value in trial.intermediate_values.items() if step <= epoch}
    seen = copy.copy(trial)
    seen.intermediate_values = known
    return seen


def _why_not_a_value(result: SegmentResult) -> str | None:
    if result.status == "diverged":
        return f"the loss stopped being finite after {len(result.validation_error)} epochs"
    if not result.validation_error or not all(map(math.isfinite, result.validation_error)):
        return f"the objective returned {result.validation_error}, not finite numbers"
    return None
