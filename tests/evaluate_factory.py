"""Ground truth and detections in a line each, and their matching."""

from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import match

A, B, C = [10, 10, 40, 40], [100, 100, 50, 50], [20, 20, 30, 30]  # boxes that do not touch
NOWHERE = [150, 10, 20, 20]


def coco_of(boxes_per_image, categories=("a", "b"), size=(200, 200)):
    """Ground truth from a list (one entry an image) of lists of (class id, x, y, w, h)."""
    annotations = [
        {"image_id": i, "category_id": k, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        for i, boxes in enumerate(boxes_per_image, 1)
        for k, x, y, w, h in boxes
    ]
    for n, annotation in enumerate(annotations, 1):
        annotation["id"] = n
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]}
            for i in range(1, len(boxes_per_image) + 1)
        ],
        "categories": [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(categories, 1)
        ],
        "annotations": annotations,
    }


def found(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def matched(coco, results):
    truth = GroundTruth.of(coco)
    return match(truth, Predictions.of(truth, results))
