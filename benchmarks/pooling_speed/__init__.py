"""Compare the cost of anchor pooling with that of mean pooling."""
