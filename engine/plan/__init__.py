"""Where does every patch, block and tile lie, and what will the render take? Arithmetic alone, without a pixel."""
