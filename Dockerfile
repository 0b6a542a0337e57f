# One image: the API, the one-shot migration and the command line.

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY latency_service latency_service
COPY device_profiles device_profiles
RUN python -m venv /opt/latency_service \
    && /opt/latency_service/bin/pip install --no-cache-dir '.[postgres]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/latency_service latency
COPY --from=build /opt/latency_service /opt/latency_service
ENV PATH=/opt/latency_service/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LATENCY_SERVICE_DATA_DIRECTORY=/var/lib/latency_service
USER 10001
WORKDIR /var/lib/latency_service
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["latency-service"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
