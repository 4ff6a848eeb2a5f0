"""Every rule is tested in float64, where a wrong fold stands out by ten orders of magnitude."""

from folding_helpers import float64  # noqa: F401  # a fixture for every test here
