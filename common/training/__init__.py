"""What the three idioms of training share: the data, the recipe, the plan of what is seen when, the folder of a run."""
