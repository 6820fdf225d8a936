"""Own parts without a fork: what is registered, who provides it, and how it is loaded."""
