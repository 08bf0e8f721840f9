"""Measure models on tasks, and test how certain their differences are."""
