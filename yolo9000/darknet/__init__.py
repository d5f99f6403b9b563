"""Formats and layers of darknet: network descriptions (.cfg), weights files, and the layers they name."""
