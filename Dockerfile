# The image of every service of ours: `beefline worker parse`, `beefline topics create`, `beefline simulate arc` …
# All dependencies have wheels for this Python. Our C files are compiled in the first stage, which the image
# leaves behind.
ARG PYTHON=python:3.12.12-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/beefline
WORKDIR /source
# Dependencies first: their layer stays while only our own files change.
COPY requirements.lock ./
RUN /opt/beefline/bin/pip install --only-binary :all: --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY agents agents
COPY beefline beefline
COPY ops ops
COPY pipeline pipeline
COPY schemas schemas
COPY topics topics
# setuptools, the build's back end, is among the locked packages; nothing is fetched here.
RUN /opt/beefline/bin/pip install --no-deps --no-build-isolation . \
    && /opt/beefline/bin/python -m compileall -q /opt/beefline/lib

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="beefline" \
      org.opencontainers.image.description="BEEF in, verified and applied once, broadcast in Extended Format" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A user without a name on any host, so that nothing mounted by accident is its own.
RUN groupadd --gid 10001 beefline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin beefline \
    && install -d -o beefline -g beefline -m 0750 /data
COPY --from=build /opt/beefline /opt/beefline
ENV PATH=/opt/beefline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BEEFLINE_HOME=/data \
    BEEFLINE_WORKER_DATA_DIR=/data/worker \
    BEEFLINE_WORKER_HTTP_PORT=8080
USER 10001:10001
WORKDIR /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: a stage that waits for the world must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['BEEFLINE_WORKER_HTTP_PORT'] + '/livez', timeout=3)"]
ENTRYPOINT ["beefline"]
CMD ["--help"]
