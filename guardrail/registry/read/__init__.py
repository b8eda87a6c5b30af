"""Reading a registry, over REST or in a store, and fetching what verified."""
