"""What frozen vectors know: vectors of a backbone, and simple models on them."""
