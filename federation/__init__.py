"""A whole federation on one machine: simulated or as loopback processes, its baselines beside it, results on disk."""
