"""Training: arguments, the loops on `transformers.Trainer`, and what happens beside them."""
