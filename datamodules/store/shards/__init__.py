"""A shard as a file: mapping it, and what may be wrong with it."""
