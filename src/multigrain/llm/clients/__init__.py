"""Clients of language models: an HTTP endpoint, the embedded model, and a scripted one for tests."""
