"""One training over several devices: a process to each, all of which make the same steps on parts of the same mini-batches."""
