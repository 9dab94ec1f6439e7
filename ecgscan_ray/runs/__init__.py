"""A run's folder: the names of its files, and for each file its writer and its reader. No torch, no Ray."""
