"""Key pairs and whoever signs with them: files, and keys that never leave a KMS, a vault or an HSM."""
