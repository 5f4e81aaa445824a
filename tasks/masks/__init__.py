"""What segmentation is made of: reading masks, networks, losses, metrics, drawings."""
