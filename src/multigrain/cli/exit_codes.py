"""The exit codes of the command line."""

DONE, FAILED, USER, PARKED, INTERRUPTED = 0, 1, 2, 3, 130
"""Done; a stage failed; the user must change something; too many requests have no answer; stopped by a signal."""
