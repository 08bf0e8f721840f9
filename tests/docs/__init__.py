"""The documentation: its snippets, its generated pages, its site."""
