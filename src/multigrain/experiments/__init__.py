"""Experiments with several runs: grids of trainings, comparisons, and tuning."""
