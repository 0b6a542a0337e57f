"""`python -m latency_service` is `latency-service`."""

from latency_service.cli import main

main()
