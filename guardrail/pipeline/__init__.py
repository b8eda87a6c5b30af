"""The stages in order, each cached by the digest of its inputs; and what one stage needs of another.

One module per stage, so that a command loads only what its stage uses: ``data``, ``training``, ``evaluation``,
``promotion``. A run is a directory (:mod:`guardrail.pipeline.run`).
"""
