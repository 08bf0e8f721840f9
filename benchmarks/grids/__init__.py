"""Runs grids of arms and seeds: which negatives, schedules and poolings help. Each is small enough for two cores."""
