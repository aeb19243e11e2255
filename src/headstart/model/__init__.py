"""What is adapted: a frozen base, LoRA sites with a task axis, and the learner that turns adapters and rows into losses."""

# before peft and transformers can import bitsandbytes their own way
import headstart.model.four_bit  # noqa: F401
