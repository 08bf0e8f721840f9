"""Check that each candidate is a negative, and determine its grade."""
