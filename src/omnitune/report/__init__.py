"""Results out of the program: records on disk, the model card, plots, and the HTML report."""
