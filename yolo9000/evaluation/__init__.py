"""Measuring models: average precision, accuracy, and how honest the depth of a label is."""
