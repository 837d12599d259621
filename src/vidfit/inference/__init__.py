"""Using a packed file: predictions and how they are written."""
