"""Run any stack of modules over any items: plan, prepare, run; caches and ranks."""
