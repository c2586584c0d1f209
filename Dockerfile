# The server, and the commands beside it, from the hashed pins: `make image`.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /src
# Without pip in it: nothing is installed where it runs.
RUN python -m venv --without-pip /opt/peerload
COPY requirements/image.txt requirements/build.txt requirements/
RUN pip --python /opt/peerload/bin/python install --require-hashes --only-binary :all: -r requirements/image.txt
RUN pip install --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .
RUN pip --python /opt/peerload/bin/python install --no-index --no-deps /wheels/peerload-*.whl
RUN install -d -o 65532 -g 65532 -m 0750 /var/lib/peerload

FROM python:${PYTHON}
COPY --from=build /opt/peerload /opt/peerload
COPY --from=build --chown=65532:65532 /var/lib/peerload /var/lib/peerload
ENV PATH=/opt/peerload/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PEERLOAD_LISTEN=0.0.0.0:8001 \
    PEERLOAD_STORE=sqlite:/var/lib/peerload/peerload.sqlite \
    PEERLOAD_LOG_FORMAT=json
# The user that the chart runs it as; a number, so that Kubernetes sees that it is not root.
USER 65532:65532
VOLUME /var/lib/peerload
EXPOSE 8001 9401
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["peerload", "health"]
ENTRYPOINT ["peerload"]
CMD ["serve"]
