"""The gate inside the MLflow server: plug-ins that refuse what is not proven, whoever asks.

    launch.py           `guardrail server`: checks, then becomes `mlflow server`
    apps.py             the server's application: installs the gate in every worker and asserts that it is active
    entry.py            what MLflow loads as the registry store, in clients, too
    gated_store.py      the registry store: what may be written of a guarded model
    admission.py        whether evidence admits an adapter, decided again here
    candidate.py        reading what a client proposes
    sealed.py           the tree of sealed adapters, named by their content; on a disk
    sealed_s3.py        the same in S3-compatible storage, over bucket_store.py
    sealed_artifacts.py no client-named location leads into that tree
    sealed_buckets.py judging.py sealing.py
    methods.py          which methods of MLflow's store read, are gated, or stay as they are
    settings.py watch.py floor.py names.py refusals.py

Not covered: whoever reaches the database or the disk directly (docs/server.md says how to close that).
"""
