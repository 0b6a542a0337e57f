"""One module a step; the order is in their `down_revision`."""
