"""How it is run: command line, settings, local broker, simulators, instruments."""
