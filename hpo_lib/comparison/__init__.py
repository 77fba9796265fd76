"""Compare strategies with paired seeds, live or on recorded trainings.

| module                | what it holds                                                          |
| --------------------- | ---------------------------------------------------------------------- |
| `run`                 | `compare` and `replay`: a study per strategy and seed, as one frame    |
| `statistics`          | final values, incumbents over budgets, budgets to a target             |
| `hypothesis_tests`    | pairs of strategies over seeds, ranks over objectives                  |
| `training_records`    | recorded trainings, read from a file or a study                        |
| `surrogate_benchmark` | `SurrogateObjective`: a model of a record, and how well it predicts    |
| `published`           | `PublishedObjective`: published tables                                 |
| `small_tasks`         | `SmallTask`: scikit-learn's models on its data; `open_objectives`      |
| `counterfactual`      | what other strategies would have found in a study                      |
"""
