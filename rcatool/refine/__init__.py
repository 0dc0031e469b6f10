"""Refinement: from coarse maps to maps that follow the photo's edges."""
