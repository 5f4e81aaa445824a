"""What object detection is made of: boxes of a row, detectors, metrics, drawings."""
