"""Files on disk become batches; nothing here knows a network."""
