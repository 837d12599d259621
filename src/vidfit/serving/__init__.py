"""Packed files behind HTTP: `vidfit serve`. docs/guide/serving.md shows it from outside."""
