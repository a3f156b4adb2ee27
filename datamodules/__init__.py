"""From crystal structures to batches: preparation, store, stream and rendering."""
