"""Several networks of one architecture computed at once, over shared storage."""
