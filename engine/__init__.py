"""The tiled rendering engine."""
