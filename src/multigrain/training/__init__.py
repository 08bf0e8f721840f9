"""Train an embedding model on graded tuples, along a curriculum."""
