"""The embedding model: anchor-token-aware pooling on a sentence-transformers model."""
