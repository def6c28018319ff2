"""Training compared with plain torch, torchrun and Lightning."""
