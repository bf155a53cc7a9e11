"""How good the detections are: COCO AP and AR, curves, pictures."""
