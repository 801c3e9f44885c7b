"""Modules of the cross-encoder family, under Sentence Transformers' path."""

from omnitune.modules import LogitScore

__all__ = ["LogitScore"]
