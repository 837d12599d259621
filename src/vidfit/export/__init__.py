"""Members into one graph file under a budget of bytes."""
