"""Pure functions on tensors and arrays: similarities, objectives, metrics, significance, quantization, BM25."""
