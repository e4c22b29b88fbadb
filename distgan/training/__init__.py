"""The per-worker loop, its checkpoints and logs; on torch.distributed, without Ray."""
