"""RSNA Pneumonia Detection Challenge 2018."""
