"""Training the embedded pair: data, the target's loss, and distillation of the drafter."""
