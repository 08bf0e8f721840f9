"""The tables of docs/results.md: grids of arms and seeds, small enough for two cores."""
