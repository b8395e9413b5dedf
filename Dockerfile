# One image with halb-agent and halbctl. See docs/operations.md, "In a container".
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY requirements.txt ./
RUN pip wheel --no-cache-dir --no-deps --require-hashes --wheel-dir /wheels -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY protocol protocol
COPY agent agent
COPY halbctl halbctl
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends nftables libnftables1 util-linux \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
RUN groupadd --system halb \
    && useradd --system --gid halb --home-dir /var/lib/halb --no-create-home halb \
    && install -d -o halb -g halb -m 0700 /var/lib/halb \
    && install -d -o halb -g halb -m 0750 /run/halb /etc/halb
VOLUME /var/lib/halb

# The agent runs as user halb with these capabilities and can never gain another:
#   NET_ADMIN  nftables, addresses, sysctls, the mark of the lease's datagram
#   NET_RAW    gratuitous ARP and neighbour advertisements
#   SYS_NICE   real-time scheduling
#   IPC_LOCK   memory that is never paged out
# setpriv needs SETUID, SETGID and SETPCAP to get there; Docker grants them by default.
ENTRYPOINT ["setpriv", "--reuid=halb", "--regid=halb", "--init-groups", "--no-new-privs", \
    "--inh-caps=-all,+net_admin,+net_raw,+sys_nice,+ipc_lock", \
    "--ambient-caps=-all,+net_admin,+net_raw,+sys_nice,+ipc_lock", \
    "--bounding-set=-all,+net_admin,+net_raw,+sys_nice,+ipc_lock", \
    "halb-agent"]
