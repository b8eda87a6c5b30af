"""guardrail: the gate between fine-tuning and the model registry.

A fine-tuned adapter reaches the registry only with signed proof that it is still safe and still useful.
Nothing is imported here: every command pays only for what it uses.
"""
