"""What is synthetic tissue worth to a segmenter that is trained on it?

`study` plans and runs the trainings, `tissue` and `synthesis` give the images, `networks` and `deeplab` the segmenters, and
`metrics` compares masks. Only `fitting`, `networks` and `deeplab` need PyTorch.
"""
