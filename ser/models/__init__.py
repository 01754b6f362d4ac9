"""Networks from frames to emotion logits; plain PyTorch modules that know nothing of training."""
