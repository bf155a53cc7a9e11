"""The machinery that all converters share: processes, box rules, splits, COCO files, the report."""
