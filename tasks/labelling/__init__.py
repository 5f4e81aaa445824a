"""What tasks with a column of labels share: finding it, targets, losses, metrics."""
