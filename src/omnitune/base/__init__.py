"""Sentence Transformers' path for what all families share; nothing inside omnitune imports it."""
