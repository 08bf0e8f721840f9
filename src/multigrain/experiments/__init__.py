"""Many runs: grids of trainings, and comparisons between runs."""
