# tidegate in a container: a binary of 4 MB over distroless, no shell, not root.
#
#   docker build -t tidegate .
#   docker run --rm -p 8080:8080 -e TIDEGATE_UPSTREAM_URL=http://app:8000 tidegate
#
# For both architectures, each compiled on (or emulated for) its own:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t registry.example/tidegate --push .
#
# The two base images belong together: the binary links the C library of the second, which must not
# be older than that of the first. Both are Debian 12 here. distroless/cc has what the binary needs
# (the C library, the unwinder, certificates) and no shell or package manager to look after.
ARG BUILD_IMAGE=rust:1-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies alone, before an empty crate: this layer is rebuilt when Cargo.lock changes, and
# not when the sources do. The targets that Cargo.toml names must exist, empty or not.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches \
    && touch src/lib.rs tests/it/main.rs tests/loom.rs benches/gate.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --bin tidegate \
    && cargo clean --release --locked -p tidegate
# The clean above matters: a checkout may be older than the empty crate, and Cargo goes by age.
COPY src src
# Printed by `tidegate export`.
COPY config config
COPY deploy deploy
RUN cargo build --release --locked --bin tidegate \
    && strip target/release/tidegate \
    && echo '# Mount a directory over this one, or set TIDEGATE_* variables.' >tidegate.toml

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/tidegate /usr/local/bin/tidegate
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/tidegate/
# Mount a directory with a tidegate.toml over /etc/tidegate, or set TIDEGATE_* variables. A
# directory, not the file: an editor replaces a file by another, and a mount would keep the old one.
COPY --from=build /src/tidegate.toml /etc/tidegate/tidegate.toml
ENV TIDEGATE_CONFIG=/etc/tidegate/tidegate.toml
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
EXPOSE 8080 9909
# Drains on it, for at most shutdown_grace (8 s); `docker stop` waits for 10 s.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/tidegate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tidegate"]
CMD ["run"]
ARG VERSION=0.1.0
ARG REVISION=unknown
# Where the sources are, for what shows it beside the image.
ARG SOURCE=""
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="A reverse-proxy sidecar that keeps one application at its best throughput under any load" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
