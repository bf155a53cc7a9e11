"""Brain tumours in MRI: Cheng's MATLAB files and YOLO folders."""
