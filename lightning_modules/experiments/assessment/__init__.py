"""What one checkpoint is worth on patterns that are not as in training."""
