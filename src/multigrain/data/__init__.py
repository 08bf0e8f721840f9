"""Read, check and split pairs and corpora."""
