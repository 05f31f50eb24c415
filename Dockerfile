# docker build -t llmchatbot-backend .
# docker build -t llmchatbot-llm-service --target llm-service .
#
# Alone, the image brings its own PostgreSQL: docker run -p 8080:8080 -v llmchatbot:/var/lib/llmchatbot/data llmchatbot-backend

ARG PYTHON=3.13-slim-bookworm

# --- what is installed, and nothing of what installs it -----------------------------------------------------------
FROM python:${PYTHON} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/llmchatbot
COPY requirements/base.txt requirements/
# Every file has its hash in requirements/: a changed package is refused, not installed.
RUN python -m pip --python /opt/llmchatbot/bin/python install --only-binary :all: --require-hashes -r requirements/base.txt
COPY src /opt/llmchatbot/src
# Bytecode is made here, since the user of the running container may not write beside the code.
RUN echo /opt/llmchatbot/src > "$(/opt/llmchatbot/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llmchatbot.pth" \
    && /opt/llmchatbot/bin/python -m compileall -q /opt/llmchatbot/src

FROM packages AS packages-local
COPY requirements/local.txt requirements/
RUN python -m pip --python /opt/llmchatbot/bin/python install --only-binary :all: --require-hashes -r requirements/local.txt

# --- what runs ----------------------------------------------------------------------------------------------------
FROM python:${PYTHON} AS runtime
# The folders exist and belong to the user, so that a fresh named volume on them does too.
RUN groupadd --gid 10001 llmchatbot \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/llmchatbot --create-home --shell /usr/sbin/nologin llmchatbot \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/llmchatbot/data /var/lib/llmchatbot/secrets \
    && install -d -m 0755 -o 10001 -g 10001 /var/lib/llmchatbot/models
ENV PATH=/opt/llmchatbot/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/var/lib/llmchatbot/data
WORKDIR /var/lib/llmchatbot
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "llmchatbot"]

FROM runtime AS llm-service
COPY --from=packages-local /opt/llmchatbot /opt/llmchatbot
EXPOSE 5000
# A large model takes minutes to load; until then /health says so, and that is no failure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "llmchatbot.llm_service"]
CMD ["--host", "0.0.0.0", "--port", "5000"]

# The last stage is what `docker build` makes when no target is named.
FROM runtime AS backend
COPY --from=packages /opt/llmchatbot /opt/llmchatbot
ENV SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8080
EXPOSE 8080
VOLUME ["/var/lib/llmchatbot/data"]
# Liveness only: a database that is away must not get the container restarted, /health/ready is for those who route.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['SERVER_PORT']}/health\", timeout=4)"]
CMD ["serve"]
