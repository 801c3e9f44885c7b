"""Models: what a family is, how a checkpoint becomes modules, and the engine that encodes."""
