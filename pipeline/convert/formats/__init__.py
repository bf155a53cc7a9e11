"""Annotation and file formats that several datasets are shipped in."""
