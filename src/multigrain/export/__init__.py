"""Export the trained model and the graded tuples for other tools."""
