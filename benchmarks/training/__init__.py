"""Training beside plain torch, torchrun and Lightning."""
