"""Modules of the cross-encoder family, under Sentence Transformers' path."""

from omnitune.modules import Dense, InputModule, LogitScore, Module, Router, Transformer
from omnitune.modules import Router as Asym

__all__ = ["Asym", "Dense", "InputModule", "LogitScore", "Module", "Router", "Transformer"]
__path__: list[str] = []  # older paths lie below: see module_paths
