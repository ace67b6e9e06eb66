"""Payloads that use whatever they are given: none gets more than its budget of time and memory."""

import pytest

from tests.hostile_scripts import HOSTILE, cost

BUDGET_MS = 500


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_payload_ends_in_its_budget(name: str) -> None:
    """Ten per cent above it are the child's own start and the kernel's ticks (hostile set: 5.5 s for 5 s, 600 MB)."""
    found = await cost(HOSTILE[name], BUDGET_MS)
    assert "policy.script-budget" in found.codes
    assert found.processor_s < BUDGET_MS / 1000 * 1.1 + 0.15
    assert found.resident_mb < 600
