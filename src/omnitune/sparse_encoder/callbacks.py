"""The schedule of SPLADE's regularizers, under Sentence Transformers' path."""

from omnitune.training.splade_schedule import SchedulerType, SpladeRegularizerWeightSchedulerCallback

__all__ = ["SchedulerType", "SpladeRegularizerWeightSchedulerCallback"]
