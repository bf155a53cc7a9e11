"""COCO files to batches: the index, decoding, intensity, augmentation, loaders."""
