"""The networks and the region memory.

Legend of the shapes in this package: B batch, C foreground classes, K classes present in an image, D feature width,
H W image size, h w feature size, S memory slots, M prototypes of all classes, R regions in a batch.
"""
