"""Using what was trained: which run is meant, its network, and what it answers."""
