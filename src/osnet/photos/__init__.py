"""Read and augment images for classification: ImageNet folders, CIFAR archives and packed tar files.

``reader`` reads any of them.
"""
