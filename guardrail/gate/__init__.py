"""The gate inside the MLflow server: plug-ins that refuse what is not proven, whoever asks.

    app/       `guardrail server` and the application that it becomes: start-up, routes, the doctor
    store/     MLflow's registry store, guarded: its methods, its names and collations, its experiments
    versions/  what versions and aliases in MLflow's tables hold, as the ledger knows it
    sealed/    where admitted adapters lie, on a disk or in S3, behind which boundaries, in which queues
    ledger/    the file that every worker writes, and what its entries add up to
    trust/     the trust file as it is now, and the latest that was ever accepted

    registrar.py        the one way into a guarded model: judge, seal, write down, then do
    admission.py        whether evidence admits an adapter, decided again here
    proposed_files.py   reading what a client proposes
    statement_desk.py   what becomes of an envelope that somebody hands in
    ticket_office.py    one nonce for one attempt: issued, then bound to one adapter
    ledger_drafts.py    what the registrar writes down, judged once more as it is written
    refusal_pacing.py   whoever keeps being refused is answered slowly; refusal_log.py: who was refused what, and why
    mlflow_errors.py    how a refusal reaches a client
    settings.py         how the gate is told what it needs; entry.py: what MLflow loads, in clients, too

Not covered: whoever reaches the database or the disk directly (docs/threat-model.md).
"""
