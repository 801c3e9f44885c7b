"""A model as graphs for other runtimes, and the gate that compares what they compute with the model."""
