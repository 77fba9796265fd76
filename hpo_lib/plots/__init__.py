"""Draw figures in two halves: `*_data` computes a small tuple, `plot_*` draws it.

A `plot_*` takes what its `*_data` takes or what that returns, and returns the axes; `save_figure`
writes them. The names in `__init__.pyi` are loaded when first used.

- `study`: incumbent, learning curves, timeline and importance of a study.
- `trials`: slices, parallel coordinates and learning curves of its trials.
- `distribution`: empirical distribution, ranks and Pareto front of the values.
- `prior`: draws from a search space.
- `partial_dependence`, `surrogate_slice`: predictions of the surrogate of a study.
- `skopt_adapter`: a study as a result of scikit-optimize, for `skopt.plots`.
- `comparison`: strategies over seeds and objectives.
- `style`, `parameter_axes`: colours, labels and scales that the figures share.

A new figure is a function in one of these, a line in `__init__.pyi` and a test.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
