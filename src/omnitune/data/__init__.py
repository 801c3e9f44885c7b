"""Datasets to batches: which columns, which rows together, and which items cannot be used."""
