"""Analysis: figures of a run."""
