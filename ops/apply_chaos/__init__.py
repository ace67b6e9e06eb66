"""The fault tests of apply alone: workers on a broker, fed with ready-made operations, and what must come of them."""
