"""Data sets on disk, read into one list of samples; label conventions; photos and masks as arrays."""
