"""Modules of every family, under Sentence Transformers' path."""

from omnitune.modules import Dense, InputModule, Module, Normalize, Router, Transformer

__all__ = ["Dense", "InputModule", "Module", "Normalize", "Router", "Transformer"]
__path__: list[str] = []  # older paths lie below: see module_paths
