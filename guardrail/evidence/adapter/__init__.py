"""What an adapter's files may say: a plain LoRA, read without torch."""
