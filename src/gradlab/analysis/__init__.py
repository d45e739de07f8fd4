"""Analysis: the figures of a run, and what many runs together say."""
