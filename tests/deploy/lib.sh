# What the checks of deploy/ share: a Docker engine, and stand-ins for the images that files name.
# To be sourced. Everything that is made here is named tidegate-test-* and removed by `clean_up`;
# with KEEP=1 the stand-ins stay, so that a second run starts at once.
#
# No registry is needed: the stand-ins are made from Debian's packages and the installed toolchain.
# They have what the files use of the real images (paths, entry points, users), and no more.

scratch=$PWD/target/deploy
base=tidegate-test-base
image=tidegate-test

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian's client, with which BuildKit comes; another one in the path may lack its plug-in.
docker() { as_root env DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain /usr/bin/docker "$@"; }

say() { echo "    $*"; }

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# until SECONDS COMMAND...: the effect is awaited, and what never comes fails with what was awaited.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "still not so: $*"
        sleep 0.2
    done
}

# Starts an engine if none answers.
start_engine() {
    mkdir -p "$scratch"
    if docker info >/dev/null 2>&1; then return; fi
    as_root sh -c "exec setsid dockerd >'$scratch/dockerd.log' 2>&1" &
    until_true 60 docker info
    engine_is_ours=1
}

stop_engine() {
    if [ -z "${engine_is_ours:-}" ]; then return; fi
    as_root kill "$(cat /var/run/docker.pid)"
    # The engine removes the file at the end of its own tidying up.
    until_true 60 test ! -e /var/run/docker.pid
}

# The part of Debian that all stand-ins share, with what this machine trusts.
make_base() {
    if docker image inspect "$base" >/dev/null 2>&1; then return; fi
    local root=$scratch/root release
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    as_root rm -rf "$root"
    as_root debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates,python3 \
        "$release" "$root" >"$scratch/debootstrap.log" 2>&1 || fail "debootstrap: $scratch/debootstrap.log"
    as_root cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    as_root tar -C "$root" --exclude=./var/cache --exclude=./var/lib/apt/lists -c . |
        docker import - "$base" >/dev/null
    as_root rm -rf "$root"
}

# stand_in NAME CONTEXT: an image from the Dockerfile on standard input.
stand_in() {
    docker build -q -t "tidegate-test-$1" -f - "$2" >/dev/null
}

# For rust:1-slim-bookworm: gcc, and the toolchain in use.
make_builder() {
    local context
    context=$(mktemp -d)
    printf '*\n!bin\n!lib\n!libexec\n' >"$context/.dockerignore"
    cp -al "$(rustc --print sysroot)"/{bin,lib,libexec} "$context" 2>/dev/null ||
        cp -a "$(rustc --print sysroot)"/{bin,lib,libexec} "$context"
    stand_in builder "$context" <<EOF
FROM $base
COPY . /usr/local/
ENV CARGO_HOME=/usr/local/cargo
EOF
    rm -rf "$context"
}

# For gcr.io/distroless/cc-debian12:nonroot: the C library, the unwinder, certificates, two users,
# and nothing that could be run.
make_runtime() {
    stand_in runtime "$scratch" <<EOF
FROM $base AS parts
RUN mkdir -p /out/etc/ssl/certs /out/tmp /out/home/nonroot \
    && dpkg -L libc6 libgcc-s1 | grep -E '^/(usr/)?lib.*/(libc|libm|libpthread|libdl|librt|libresolv|libnss_[a-z]+|libgcc_s|ld-linux[-a-z0-9_]*)\.so' \
        | xargs tar -ch | tar -C /out -x \
    && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
    && printf 'hosts: files dns\n' >/out/etc/nsswitch.conf \
    && printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >/out/etc/passwd \
    && printf 'root:x:0:\nnonroot:x:65532:\n' >/out/etc/group
FROM scratch
COPY --from=parts /out /
USER 65532
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EOF
}

# For python:3-slim.
make_python() {
    stand_in python "$scratch" <<EOF
FROM $base
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
CMD ["python3"]
EOF
}

# For prom/prometheus: Debian's, at the places of the real image and with its user.
make_prometheus() {
    local context
    context=$(mktemp -d)
    cp "$(command -v prometheus)" "$context/prometheus"
    stand_in prometheus "$context" <<EOF
FROM $base
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown nobody:nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
EOF
    rm -rf "$context"
}

# For grafana/grafana, which Debian does not have: it reads what it would load, and sleeps.
make_grafana() {
    stand_in grafana "$scratch" <<EOF
FROM $base
RUN mkdir -p /var/lib/grafana && chown 472 /var/lib/grafana
USER 472
STOPSIGNAL SIGKILL
CMD ["sh", "-c", "cat /etc/grafana/provisioning/*/*.yml \$GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH >/dev/null && exec sleep infinity"]
EOF
}

# The image of the Dockerfile itself, from the committed and uncommitted files of the work tree.
make_image() {
    docker build -t "$image" --build-arg BUILD_IMAGE=tidegate-test-builder \
        --build-arg RUNTIME_IMAGE=tidegate-test-runtime --build-arg REVISION="$(git rev-parse HEAD)" . \
        >"$scratch/build.log" 2>&1 || { tail -40 "$scratch/build.log"; fail "the image cannot be built"; }
}

# Containers, networks and images that these scripts have made, by their names alone.
clean_up() {
    local found
    found=$(docker ps -aq --filter name=tidegate-test)
    if [ -n "$found" ]; then docker rm -f $found >/dev/null; fi
    found=$(docker volume ls -q --filter name=tidegate-test)
    if [ -n "$found" ]; then docker volume rm -f $found >/dev/null; fi
    found=$(docker network ls -q --filter name=tidegate-test)
    if [ -n "$found" ]; then docker network rm $found >/dev/null; fi
    if [ -n "${KEEP:-}" ]; then return; fi
    found=$(docker images -q 'tidegate-test*' | sort -u)
    if [ -n "$found" ]; then docker rmi -f $found >/dev/null; fi
    # What was built is cached too; an engine of somebody else keeps its cache.
    if [ -n "${engine_is_ours:-}" ]; then docker builder prune -af >/dev/null; fi
}

make_small() {
    make_runtime
    make_python
    make_prometheus
    make_grafana
}
