"""Learn where fine-tuning starts."""
