"""The schedule of SPLADE's regularizers, under Sentence Transformers' path."""

from omnitune.training.callbacks import SchedulerType, SpladeRegularizerWeightSchedulerCallback

__all__ = ["SchedulerType", "SpladeRegularizerWeightSchedulerCallback"]
__path__: list[str] = []  # older paths lie below: see module_paths
