"""What there is: what may be written and typed, which recipes, which runs."""
