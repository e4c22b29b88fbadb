"""The adversarial algorithm: tensors in, scalars out. Knows nothing of processes, Ray or logs."""
