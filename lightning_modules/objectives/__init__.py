"""What is minimised: losses, masks, alignment, decoder, targets. Plain torch, no Lightning."""
