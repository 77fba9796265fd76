"""Choose the next configuration: every strategy as an Optuna sampler, and pruners.

registry: names of strategies; how to add one.
bayes: `BayesSampler`, the workbench's own. Its parts: gp_sampler_base (shared with skopt_sampler),
    observations (recorded trials as training data), encoding (configurations as numbers), gp (the
    model), acquisition (expected improvement, and where it is maximised).
skopt_sampler, optuna_samplers, simple, three_step: the other strategies.
pruners: whether a trial stops at a rung.
surrogate: the model that figures and stopping rules read from a study.
"""
