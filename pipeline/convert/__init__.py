"""Raw files of one dataset to COCO JSON, images and a report that accounts for all of it."""
