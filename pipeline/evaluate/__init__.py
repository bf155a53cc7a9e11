"""How good the detections are: AP and AR, curves, intervals, mistakes, comparisons, pictures."""
