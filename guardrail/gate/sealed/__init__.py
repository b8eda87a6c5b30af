"""Where admitted adapters lie, on disk or in S3, and the boundaries that keep clients out."""
