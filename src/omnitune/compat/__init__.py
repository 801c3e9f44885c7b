"""Older spellings that scripts for Sentence Transformers 2 to 6 still use; nothing inside omnitune imports it."""
