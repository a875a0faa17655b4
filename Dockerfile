# The server and the kernel python3, for one directory of notebooks:
#
#     docker build -t jupyter-papermill-mcp .
#     docker run -i --rm --init -v /path/to/notebooks:/work jupyter-papermill-mcp
#
# The client must own the standard input, so `-i` is needed and `-t` must not be given.

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY papermill_mcp ./papermill_mcp
RUN python -m venv /opt/server && /opt/server/bin/pip install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --create-home --uid 1000 jupyter \
    && install -d -o jupyter -g jupyter -m 0755 /work \
    && install -d -o jupyter -g jupyter -m 0700 /state
COPY --from=build /opt/server /opt/server
ENV PATH="/opt/server/bin:$PATH" \
    JUPYTER_MCP_STATE_DIRECTORY=/state
USER jupyter
WORKDIR /work
VOLUME ["/work", "/state"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/server/bin/jupyter-papermill-mcp", "--roots", "/work"]
