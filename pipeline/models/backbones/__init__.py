"""Backbones: images to feature maps of strides 8, 16 and 32."""
