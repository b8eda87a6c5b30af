"""The trust file as the running server takes it: the newest that was ever accepted."""
