"""The engine that does shards of work on a Ray cluster. Ray is imported only here, at the first use."""
