"""Evaluate segments in the driver's own process."""

from __future__ import annotations

from concurrent.futures import Future

from hpo_lib.objective import Objective, Segment
from hpo_lib.space.values import Configuration
from hpo_lib.study.workers.base import Evaluation, evaluate


class InProcess:
    """One slot in the driver's own process, for debugging: no limits, no protection."""

    slots = 1

    def submit(
        self,
        objective: Objective,
        configuration: Configuration,
        segment: Segment,
    ) -> Future[Evaluation]:
        """Evaluate one segment before returning.

        Args:
            objective: evaluates the segment.
            configuration: active hyperparameters of the trial.
            segment: epochs to train.
        """
        future: Future[Evaluation] = Future()
        future.set_result(evaluate(objective, configuration, segment, "driver"))
        return future

    def close(self) -> None:
        """Do nothing: there is no process to end."""
