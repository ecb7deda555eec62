"""Running networks: folding, backends, export, several processes."""
