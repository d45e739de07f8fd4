"""What gradlab costs, beside others that do the same work. ``scripts/bench.py`` is the command; each part has a file here."""
