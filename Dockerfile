# One image for every service: the command's last word says which (all, checkin, commands, push,
# webhook). `all` needs nothing but a volume for its data (-v macromdm:/var/lib/macromdm) and an address to
# listen on (MDM_HTTP=:8080); the single services need MDM_MONGODB_URL, MDM_AMQP_URL and MDM_SECRET_KEY.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/macromdm
# Dependencies first, so that a change of the code does not install them anew.
COPY pyproject.toml README.md ./
RUN mkdir services shared && touch services/__init__.py shared/__init__.py \
    && /opt/macromdm/bin/pip install --no-cache-dir . \
    && rm -rf build *.egg-info services shared
COPY services services
COPY shared shared
COPY docs/openapi.json docs/openapi.json
RUN /opt/macromdm/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/macromdm --create-home macromdm
COPY --from=build /opt/macromdm /opt/macromdm
ENV PATH=/opt/macromdm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/macromdm
EXPOSE 8080 8081 8082 8083 8084 9080 9081 9082 9083 9084
ENTRYPOINT ["python", "-m", "services"]
CMD ["all"]
