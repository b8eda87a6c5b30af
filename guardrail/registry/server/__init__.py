"""The gate inside the MLflow server: plug-ins that refuse what is not proven, whoever asks.

    launch.py           `guardrail server`: checks, then becomes `mlflow server`
    apps.py             the server's application: installs the gate in every worker and asserts that it is active
    settings.py         how the gate is told what it needs
    watch.py            the trust file as it is now; floor.py: the latest one that was ever accepted, by the ledger
    beginning.py        what a worker does before its first request; refusal_log.py: who was refused what, and why
    entry.py            what MLflow loads as the registry store, in clients, too

    gated_store.py      the registry store: what may be written of a guarded model
    methods.py          which methods of MLflow's store read, are gated, or stay as they are
    names.py            whether the database takes two names for the same; collations.py: how its columns compare
    validity.py         whether what an alias points at may still be handed out, and until when
    holding.py          what a version in the database holds, as the ledger knows it
    reconcile.py        what the ledger and the database say differently
    marking.py          a revoked version says so in MLflow
    beneath.py          the registry store beneath the gate, for what the gate itself does to it
    refusals.py         how a refusal reaches a client

    experiments.py      the gate owns the experiments that decisions and candidates are recorded in

    registrar.py        the one way into a guarded model: judge, seal, write down, then do
    candidate.py        reading what a client proposes
    admission.py        whether evidence admits an adapter, decided again here

    routes.py           the gate's own routes beside MLflow's
    tickets.py          one nonce for one attempt: issued, then bound to one adapter
    statements.py       what becomes of an envelope that somebody hands in
    waiting.py          which evidence waits for persons to agree
    doctor.py           whether everything is as the ledger says

    journal.py          the server's ledger, which every worker appends to
    recording.py        what the registrar writes there, judged once more as it is written
    state.py            what the ledger's entries add up to

    sealing.py          where a server seals, for each kind of destination
    sealed.py           the tree of sealed adapters, named by their content; on a disk
    sealed_s3.py        the same in S3-compatible storage, over bucket_store.py
    sealed_artifacts.py no client-named location leads into that tree
    sealed_buckets.py   the same for locations in object storage; judging.py: what both have in common

Not covered: whoever reaches the database or the disk directly (docs/server.md says how to close that).
"""
