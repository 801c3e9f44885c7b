"""Modules of the cross-encoder family, under Sentence Transformers' path."""

from omnitune.modules import Dense, InputModule, LogitScore, Module, Router, Transformer

__all__ = ["Dense", "InputModule", "LogitScore", "Module", "Router", "Transformer"]
