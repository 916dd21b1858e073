"""What runs on a box: images in, branch files out."""
