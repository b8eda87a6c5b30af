"""The trust file: whose key is whose, who may do what, which models and aliases are guarded."""
