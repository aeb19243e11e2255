"""What is adapted: a frozen base, LoRA sites with a task axis, and the learner that turns adapters and rows into losses."""
