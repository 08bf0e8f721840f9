"""Compare a training step with the stock sentence-transformers trainer."""
