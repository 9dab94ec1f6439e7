"""From a picture of any kind to a page in millimetres: pose, grid, layout. Learned from rendered pages alone."""
