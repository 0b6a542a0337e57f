"""The REST API: docs/api.md is its contract."""
