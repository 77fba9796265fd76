"""Exchange trials with other programs: import of earlier results, logs for trackers."""
