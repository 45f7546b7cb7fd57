"""The coordinator's database, one version after the other."""
