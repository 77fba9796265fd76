"""Search with this workbench: early stopping, resume and two workers."""

from own_training import EPOCHS, Training

from hpo_lib import SearchSpace, run_study

SPACE = SearchSpace.from_yaml("""
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.001}
width: {type: int, low: 8, high: 32, step: 8, default: 16}
""")


def train(configuration, context):
    training = Training(configuration)
    state = context.load()
    if state is not None:
        training.load_state_dict(state)
    for epoch in range(context.epoch, context.budget):
        error = training.run_epoch(epoch)
        context.save(training.state_dict())
        yield error


if __name__ == "__main__":
    options = {"name": "own", "storage": "own.db", "pruning": "asha", "workers": 2}
    study = run_study(train, SPACE, "bayes", 12, budget=EPOCHS, **options)
    print(study.best_value, study.best_params)
