"""The plain loop trains what the engine trains."""

from __future__ import annotations

import pytest
import torch
from _plain import Plain

from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.loaders import load_data
from hpo_lib.training.trainer import Trainer


@pytest.mark.slow
def test_groups_of_parameters_have_the_learning_rates_of_the_engine():
    data = load_data(DataConfig("digits", n_train=100))
    config = TrainingConfig(
        n_filters=2,
        epochs=3,
        batch_size=50,
        flip=False,
        optimizer="muon",
        norm_bias_lr_factor=8.0,
    )
    plain, engine = Plain(config, data), Trainer(config, data, torch.device("cpu"))
    plain.epoch()
    engine.run_epoch(1, data)

    rates = [group["lr"] for group in plain.optimizer.param_groups]
    assert rates == [group["lr"] for group in engine.optimizer.param_groups]
    assert len(set(rates)) == 3
