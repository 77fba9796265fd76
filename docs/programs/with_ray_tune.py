"""Search with Ray Tune: early stopping, resume and two workers."""

import tempfile
from pathlib import Path

import torch
from own_training import EPOCHS, Training
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch


def train(configuration):
    training = Training(configuration)
    done = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            done, state = torch.load(f"{folder}/state.pt", weights_only=True)
        training.load_state_dict(state)
    for epoch in range(done, EPOCHS):
        error = training.run_epoch(epoch)
        with tempfile.TemporaryDirectory() as folder:
            torch.save((epoch + 1, training.state_dict()), f"{folder}/state.pt")
            tune.report({"error": error}, checkpoint=tune.Checkpoint.from_directory(folder))


if __name__ == "__main__":
    folder = Path("ray_results").resolve()
    if tune.Tuner.can_restore(str(folder / "own")):
        tuner = tune.Tuner.restore(str(folder / "own"), train, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={
                "lr": tune.loguniform(0.0001, 0.1),
                "width": tune.qrandint(8, 32, 8),
            },
            tune_config=tune.TuneConfig(
                metric="error",
                mode="min",
                num_samples=12,
                scheduler=ASHAScheduler(max_t=EPOCHS, reduction_factor=3),
                search_alg=ConcurrencyLimiter(OptunaSearch(), max_concurrent=2),
            ),
            run_config=tune.RunConfig(name="own", storage_path=str(folder)),
        )
    best = tuner.fit().get_best_result("error", "min")
    print(best.metrics["error"], best.config)
