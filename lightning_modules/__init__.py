"""The tasks (masked XRD modeling, contrastive alignment, regression) on one shared backbone."""
