"""Going on with a single run: which one is meant, with which configuration, from which checkpoint."""
