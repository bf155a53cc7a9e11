"""A local page to look through a dataset, its detections and its likeliest label errors."""
