# Two images from one file: docker build --target manager . and docker build --target gateway .
# Both are static programs on a distroless base, as a user that is not root. Both come out of one build, and what Go has downloaded and
# compiled stays with the builder.
ARG BUILD_BASE=golang:1.26
ARG RUN_BASE=gcr.io/distroless/static:nonroot

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY api api
COPY cmd cmd
COPY controllers controllers
COPY internal internal
ENV CGO_ENABLED=0
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -ldflags="-s -w" -o /out/rollcall-manager ./cmd/manager && \
    go build -trimpath -ldflags="-s -w" -o /out/rollcall-gateway ./cmd/gateway

FROM ${RUN_BASE} AS gateway
COPY --from=build /out/rollcall-gateway /rollcall-gateway
USER 65532:65532
ENTRYPOINT ["/rollcall-gateway"]

FROM ${RUN_BASE} AS manager
COPY --from=build /out/rollcall-manager /rollcall-manager
USER 65532:65532
ENTRYPOINT ["/rollcall-manager"]
