# One image with halb-agent and halbctl. See docs/operations.md, "In a container".
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY requirements.txt requirements-dev.txt ./
RUN pip wheel --no-cache-dir --no-deps --require-hashes --wheel-dir /wheels -r requirements.txt \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements-dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY protocol protocol
COPY agent agent
COPY halbctl halbctl
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip install --no-cache-dir --no-index --no-deps --ignore-installed --prefix=/installed \
        /wheels/*.whl

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends nftables libnftables1 util-linux \
    && rm -rf /var/lib/apt/lists/*
# Numbers that never change: files in the volume belong to them.
RUN groupadd --system --gid 748 halb \
    && useradd --system --uid 748 --gid halb --home-dir /var/lib/halb --no-create-home halb \
    && install -d -o halb -g halb -m 0700 /var/lib/halb \
    && install -d -o halb -g halb -m 0750 /run/halb /etc/halb
# No mount of the stage: engines exist that keep this step when only the mounted files change.
COPY --from=build /installed /usr/local
COPY packaging/container-entrypoint /usr/local/bin/
# Fails the build if anything is missing, and leaves compiled what each start imports.
RUN halb-agent --version && halbctl version
VOLUME /var/lib/halb
ENTRYPOINT ["container-entrypoint"]
