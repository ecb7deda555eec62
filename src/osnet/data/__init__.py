"""Read data sets and images, and turn images into tensors for training and inference."""
