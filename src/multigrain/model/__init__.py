"""The embedding model: build, load and encode, with anchor-token-aware pooling for sentence-transformers."""
