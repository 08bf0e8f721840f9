"""Train a language model into an embedding model on two cores within a quarter of an hour."""
