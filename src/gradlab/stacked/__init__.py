"""Many networks of one architecture, computed and updated at once."""
