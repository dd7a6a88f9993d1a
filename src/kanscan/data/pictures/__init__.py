"""Pictures: files, classes, transforms, batches."""
