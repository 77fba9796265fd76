"""Steer a study: another search space, trials that go on, notes."""
