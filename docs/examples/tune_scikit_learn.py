"""Tune scikit-learn estimators with early stopping, in three ways."""

from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from hpo_lib import SearchSpace, run_study

X, y = load_digits(return_X_y=True)
X_train, X_valid, y_train, y_valid = train_test_split(X / 16, y, stratify=y, random_state=0)


def growing_set(configuration, context):
    """Fit any estimator to a growing share of the training set: 1/27, 1/9, 1/3, all of it."""
    context.load()
    for epoch in range(context.epoch, context.budget):
        n = len(X_train) // 3 ** (context.budget - 1 - epoch)
        model = SVC(C=configuration["C"], gamma=configuration["gamma"])
        model.fit(X_train[:n], y_train[:n])
        context.save(True)  # nothing to keep but that this share is done
        yield 1 - model.score(X_valid, y_valid)


def partial_fit(configuration, context):
    """Go through the data once more for each report."""
    model = SGDClassifier(alpha=configuration["alpha"], random_state=context.seed)
    for _ in range(context.budget):
        model.partial_fit(X_train, y_train, classes=range(10))
        yield 1 - model.score(X_valid, y_valid)


def warm_start(configuration, context):
    """Add five trees for each report."""
    model = GradientBoostingClassifier(
        learning_rate=configuration["rate"], warm_start=True, random_state=context.seed
    )
    for epoch in range(context.budget):
        model.set_params(n_estimators=5 * (epoch + 1)).fit(X_train[:300], y_train[:300])
        yield 1 - model.score(X_valid, y_valid)


SPACES = {
    growing_set: "C: {type: float, low: 0.01, high: 100, log: true}\n"
    "gamma: {type: float, low: 0.001, high: 1, log: true}",
    partial_fit: "alpha: {type: float, low: 1e-6, high: 0.1, log: true}",
    warm_start: "rate: {type: float, low: 0.01, high: 1, log: true}",
}

if __name__ == "__main__":
    for train, space in SPACES.items():
        study = run_study(
            train,
            SearchSpace.from_yaml(space),
            n_trials=12,
            budget=4,
            pruning="asha",
            rungs=(1, 2, 3),
            name=train.__name__,
            storage="examples.db",
        )
        print(train.__name__, study.best_params, study.best_value)
