"""What the three frameworks share in training: the data, the recipe, the order of the images, the folder of a run."""
