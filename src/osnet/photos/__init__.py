"""Images of things for classification: ImageNet, CIFAR, packed files, and their augmentation."""
