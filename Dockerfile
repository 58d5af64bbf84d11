# One image for every service: the command's last word says which (all, checkin, commands, push,
# webhook). `all` needs nothing but a volume for its data (-v macromdm:/var/lib/macromdm) and an address to
# listen on (MDM_HTTP=:8080); the single services need MDM_MONGODB_URL, MDM_AMQP_URL and MDM_SECRET_KEY.
# `make image` says the revision.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/macromdm
# Dependencies first, so that a change of the code does not install them anew: exact versions with their hashes,
# ready-made for the platform, so that nothing is compiled.
COPY deploy/image deploy/image
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/image/build.lock \
    && /opt/build/bin/pip --python /opt/macromdm/bin/python install --no-cache-dir --require-hashes \
        --only-binary :all: -r deploy/image/requirements.lock
COPY pyproject.toml README.md ./
COPY services services
COPY shared shared
COPY docs/openapi.json docs/openapi.json
ARG REVISION=
RUN printf '%s\n' "$REVISION" >shared/web/revision \
    && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheels . \
    && /opt/build/bin/pip --python /opt/macromdm/bin/python install --no-cache-dir --no-deps --no-index \
        /tmp/wheels/*.whl

FROM python:3.11.14-slim-bookworm
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="MacroMDM" \
    org.opencontainers.image.description="Apple device management server" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.source="$SOURCE"
RUN groupadd --gid 10001 macromdm \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/macromdm --create-home --shell /usr/sbin/nologin macromdm
COPY --from=build /opt/macromdm /opt/macromdm
ENV PATH=/opt/macromdm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/macromdm
EXPOSE 8080 8081 8082 8083 8084 9080 9081 9082 9083 9084
ENTRYPOINT ["python", "-m", "services"]
CMD ["all"]
