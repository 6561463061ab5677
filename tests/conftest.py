"""Fixtures of the whole suite."""

pytest_plugins = ["tests.stack_fixtures"]
