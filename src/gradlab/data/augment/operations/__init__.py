"""What augmentations do to whole batches, in torch; imported when the first batch is made. No Python for each image."""
