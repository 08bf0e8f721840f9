"""Language models: one client protocol, its servers, and the store that keeps every answer."""
