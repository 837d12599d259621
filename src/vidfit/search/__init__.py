"""Fit a trained run to any number of bytes: candidates, the search over them, the frontier."""
