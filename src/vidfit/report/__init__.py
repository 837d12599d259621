"""A run on one HTML page, from the files of its folder."""
