"""What a run writes to disk about itself."""
