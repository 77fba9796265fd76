"""Search with Optuna: early stopping and resume; for two workers, start it twice."""

from pathlib import Path

import optuna
import torch
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from own_training import EPOCHS, Training


def objective(trial):
    configuration = {
        "lr": trial.suggest_float("lr", 0.0001, 0.1, log=True),
        "width": trial.suggest_int("width", 8, 32, step=8),
    }
    training = Training(configuration)
    # A trial whose process has died is queued once more, under another number.
    file = Path(trial.user_attrs.get("file", f"checkpoints/{trial.number}.pt"))
    trial.set_user_attr("file", str(file))
    done = 0
    if file.exists():
        done, error, state = torch.load(file, weights_only=True)
        training.load_state_dict(state)
    for epoch in range(done, EPOCHS):
        error = training.run_epoch(epoch)
        file.parent.mkdir(exist_ok=True)
        torch.save((epoch + 1, error, training.state_dict()), file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        trial.report(error, epoch + 1)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


if __name__ == "__main__":
    storage = RDBStorage(
        "sqlite:///own.db",
        heartbeat_interval=1,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            inherit_intermediate_values=True
        ),
    )
    study = optuna.create_study(
        study_name="own",
        storage=storage,
        pruner=optuna.pruners.SuccessiveHalvingPruner(reduction_factor=3),
        load_if_exists=True,
    )
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    stop = optuna.study.MaxTrialsCallback(12, states=states)
    study.optimize(objective, callbacks=[stop])
    print(study.best_value, study.best_params)
