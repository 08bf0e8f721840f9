"""The kinds of language model that can be asked: an HTTP endpoint, the embedded model, a scripted one for tests."""
