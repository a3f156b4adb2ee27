"""Who gets which material when."""
