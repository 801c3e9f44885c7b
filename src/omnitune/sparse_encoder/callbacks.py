"""The schedule of SPLADE's regularizers, under Sentence Transformers' path."""

from omnitune.training.callbacks import SchedulerType, SpladeRegularizerWeightSchedulerCallback

__all__ = ["SchedulerType", "SpladeRegularizerWeightSchedulerCallback"]
