"""Cards of models: what a run recorded of itself, what of it may be told, and how it is told."""
