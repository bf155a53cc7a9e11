"""The table dataset x backbone x arm, from whatever experiments exist."""
