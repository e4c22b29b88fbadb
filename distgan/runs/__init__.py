"""The driver's part: what is checked before a run starts, who may drive it, what is shown and done afterwards."""
