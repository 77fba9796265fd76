"""Search with Lightning and Optuna: early stopping and resume; for two workers, start it twice."""

from pathlib import Path

import lightning
import optuna
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from optuna_integration import PyTorchLightningPruningCallback
from own_training import EPOCHS, build, load_images
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


# User's own part: the same network and training, as Lightning wants them.
class Module(lightning.LightningModule):
    def __init__(self, configuration):
        super().__init__()
        self.network = build(configuration)
        self.lr = configuration["lr"]

    def training_step(self, batch):
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch):
        images, labels = batch
        error = (self.network(images).argmax(dim=1) != labels).float().mean()
        self.log("error", error)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*load_images()[:2]), batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*load_images()[2:]), batch_size=400)


# End of the user's own part.


def objective(trial):
    configuration = {
        "lr": trial.suggest_float("lr", 0.0001, 0.1, log=True),
        "width": trial.suggest_int("width", 8, 32, step=8),
    }
    # A trial whose process has died is queued once more, under another number.
    folder = Path(trial.user_attrs.get("folder", f"checkpoints/{trial.number}"))
    trial.set_user_attr("folder", str(folder))
    prune = PyTorchLightningPruningCallback(trial, monitor="error")
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, save_last=True), prune],
        enable_progress_bar=False,
    )
    last = folder / "last.ckpt"
    trainer.fit(Module(configuration), ckpt_path=last if last.exists() else None)
    return trainer.callback_metrics["error"].item()


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
