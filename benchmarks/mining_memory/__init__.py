"""Measure memory and time of the data stage and mining for a million passages."""
