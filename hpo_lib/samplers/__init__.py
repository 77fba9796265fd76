"""Choose the next configuration: every strategy as an Optuna sampler, and pruners."""
