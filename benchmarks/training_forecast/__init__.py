"""Compare the forecast of `check` with a real training."""
