# Both stages use the same base: a Debian with Python >= 3.11 and its venv module. The image that runs has no pip, no compiler, no
# Redis, and needs no shell: everything is started in the exec form.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# What the lock file names, by its hashes, and nothing else; the layer is kept until the lock file changes.
COPY requirements-image.lock ./
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/coordinator && \
    /opt/tools/bin/pip --python /opt/coordinator/bin/python install --no-deps --require-hashes --only-binary :all: -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY coordinator ./coordinator
# No index is asked here: a requirement that the lock file lacks stops it.
RUN /opt/tools/bin/pip --python /opt/coordinator/bin/python install --no-index --no-build-isolation '.[kubernetes,sessions]' && \
    /opt/tools/bin/pip --python /opt/coordinator/bin/python uninstall --yes setuptools

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=0.0.0
LABEL org.opencontainers.image.title="recovery-coordinator" \
      org.opencontainers.image.description="Notices dead voice workers and hands their live calls to workers that live" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/recovery-coordinator/recovery-coordinator" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/coordinator /opt/coordinator
# Nothing is written: the root file system may be read-only. HTTP serves health and metrics to the pod's network; the sidecar's calls
# need a token from anywhere but loopback.
ENV PATH=/opt/coordinator/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    COORDINATOR_HTTP_HOST=0.0.0.0 COORDINATOR_LOG_FORMAT=json
USER 65532:65532
EXPOSE 9410 9411
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s --retries=3 \
    CMD ["/opt/coordinator/bin/python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('COORDINATOR_HTTP_PORT', '9410') + '/healthz', timeout=3)"]
ENTRYPOINT ["/opt/coordinator/bin/coordinator"]
CMD ["run"]
