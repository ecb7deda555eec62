"""What people look like, in words: data sets of images with 0/1 labels."""
