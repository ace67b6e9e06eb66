"""The stages: when a rule is asked, and where its answer goes. No rule lives here."""
