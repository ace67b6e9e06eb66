"""What the system is measured and tested with: a simulated chain, and signed BEEFs whose verdict is known.

Nothing here uses `pipeline`: an instrument that shared its code would share its faults. It writes; it never judges.
"""
