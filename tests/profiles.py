"""How long property tests look: the same examples each time, so that a red run is red again."""

import os

from hypothesis import HealthCheck, settings

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

CHEAP = settings(derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=_QUIET)
SIGNED = settings(derandomize=True, deadline=None, database=None, max_examples=40, suppress_health_check=_QUIET)
"""For examples that make signatures."""

LONG = int(os.environ.get("SCRIPT_EXAMPLES", "0"))
"""How many examples the long form of a property looks at; `make fuzz` asks for 200,000."""
