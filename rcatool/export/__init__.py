"""Predictions and pseudo labels in the formats of other tools."""
