"""Tune a PyTorch network in skorch, with early stopping and checkpoints."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from hpo_lib import SearchSpace, run_study

X, y = load_digits(return_X_y=True)
X_train, X_valid, y_train, y_valid = train_test_split(
    (X / 16).astype("float32"), y, stratify=y, random_state=0
)

SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 0.001, high: 1, log: true, default: 0.05}
width: {type: int, low: 16, high: 64, step: 16}
"""
)


def train(configuration, context):
    torch.manual_seed(context.seed)
    width = configuration["width"]
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)),
        criterion=nn.CrossEntropyLoss,
        lr=configuration["lr"],
        optimizer__momentum=0.9,
        max_epochs=1,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).initialize()

    # What skorch's `save_params` would write, as tensors.
    state = context.load()
    if state is not None:
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])

    for epoch in range(context.epoch, context.budget):
        torch.manual_seed(context.seed + epoch)  # the order of the examples
        net.partial_fit(X_train, y_train)
        context.save(
            {"module": net.module_.state_dict(), "optimizer": net.optimizer_.state_dict()}
        )
        yield 1 - net.score(X_valid, y_valid)


if __name__ == "__main__":
    options = {"name": "skorch", "storage": "examples.db", "budget": 9, "pruning": "asha"}
    study = run_study(train, SPACE, n_trials=12, **options)
    print(study.best_params, study.best_value)
