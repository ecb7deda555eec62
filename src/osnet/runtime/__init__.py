"""What runs a network: folding, backends, export, quantization, several processes."""
