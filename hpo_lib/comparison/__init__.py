"""Compare strategies: paired seeds, statistics, replays of recorded trainings."""
