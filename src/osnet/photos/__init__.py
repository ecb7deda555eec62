"""Images for classification: ImageNet folders, CIFAR archives, packed tar files, and their augmentation."""
