"""Frames of comparisons, made of values."""

from __future__ import annotations

import pandas as pd


def finals_frame(finals: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "strategy": s,
                "seed": i,
                "trial": 1,
                "value": v,
                "best": v,
                "seconds": 1.0,
                "suggest_seconds": 0.1,
            }
            for s, values in finals.items()
            for i, v in enumerate(values)
        ]
    )


def curves_frame(curves: dict[str, list[list[float]]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "strategy": name,
                "seed": seed,
                "trial": trial,
                "value": value,
                "best": value,
                "seconds": 10.0 * trial,
                "suggest_seconds": 1.0 * trial,
            }
            for name, runs in curves.items()
            for seed, run in enumerate(runs)
            for trial, value in enumerate(run, start=1)
        ]
    )
