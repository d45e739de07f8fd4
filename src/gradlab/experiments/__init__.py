"""The experiments of ``experiments/``: run by gradlab's own commands, and judged again each time."""
