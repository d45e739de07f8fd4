"""``gradlab doctor``: what is wrong with this installation, machine, store and data, and what to do about it."""
