"""Which negatives, schedules and poolings help: grids of arms and seeds, small enough for two cores."""
