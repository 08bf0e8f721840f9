"""Run grids of arms and seeds: which negatives, schedules and poolings help. Each fits two cores."""
