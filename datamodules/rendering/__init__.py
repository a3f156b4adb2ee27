"""From diffraction lines to patterns as the model sees them."""
