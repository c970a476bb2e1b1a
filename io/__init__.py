"""Slides, masks and annotations: arrays, slices and files, never patches."""
