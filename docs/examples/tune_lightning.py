"""Tune a Lightning module with its data module, with early stopping and checkpoints."""

import logging

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from hpo_lib import SearchSpace, run_study

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

SPACE = SearchSpace.from_yaml("lr: {type: float, low: 1e-4, high: 0.1, log: true}")


class Digits(pl.LightningDataModule):
    def setup(self, stage):
        X, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y))
        split = torch.Generator().manual_seed(0)
        self.train, self.valid = random_split(data, [0.8, 0.2], generator=split)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.valid, batch_size=512)


class Classifier(pl.LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch):
        error = (self.layers(batch[0]).argmax(1) != batch[1]).float().mean()
        self.log("validation_error", error)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


def train(configuration, context):
    pl.seed_everything(context.seed, verbose=False)
    module, data = Classifier(configuration["lr"]), Digits()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    name = context.load()  # of the last checkpoint
    for epoch in range(context.epoch, context.budget):
        pl.seed_everything(context.seed + epoch, verbose=False)
        trainer = pl.Trainer(max_epochs=epoch + 1, enable_model_summary=False, **quiet)
        last = context.folder / name if name else None
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
        name = f"{epoch}.ckpt"
        trainer.save_checkpoint(context.folder / name)
        context.save(name)
        yield trainer.callback_metrics["validation_error"]


if __name__ == "__main__":
    options = {"name": "lightning", "storage": "examples.db", "budget": 9, "pruning": "asha"}
    study = run_study(train, SPACE, n_trials=12, **options)
    print(study.best_params, study.best_value)
