"""Measure models on tasks, and say how sure the differences are."""
