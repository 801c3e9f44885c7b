"""Read media as text inside a model, so that a text encoder serves pages, speech and clips."""
