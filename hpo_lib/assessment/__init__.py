"""Say in plain sentences what a study found, each with its figure, its n and its interval.

- `run`: `findings`, which makes them all
- `finding`: a sentence with its status, and their list as text, HTML and JSON
- `evidence`: what several sentences rest on: trials, surrogate, correlations
- `worth`: tuned against default on test images, and what the search cost
- `ablation`, `found`: the best configuration, and which of its changes earn the gain
- `search`: edges of the space, the improvement left, the surrogate, the rungs
- `luck`: how optimistic the best value is
- `strategies`: what a comparison separates
- `failures`: trials without a value
"""
