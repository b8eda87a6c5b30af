"""How a server is asked: every answer has an end."""
