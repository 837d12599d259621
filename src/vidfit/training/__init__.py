"""From batches to trained members."""
