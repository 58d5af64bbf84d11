# Every target calls one small script in deploy/local/; `make help` lists them.
# ARGS hands arguments on: make test ARGS="-k order", make bench ARGS=--help.

LOCAL := bash deploy/local
ARGS ?=

.PHONY: help run test check up down against demo bench catalogue readable lock image clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

run: ## all services in one process on http://127.0.0.1:8080, data in ./data
	@$(LOCAL)/run.sh $(ARGS)

test: ## every test, on a private RabbitMQ node and store
	@$(LOCAL)/test.sh $(ARGS)

against: ## MONGODB=image RABBITMQ=image [REPLICA_SET=name]: every test, on those in containers
	@$(LOCAL)/against.sh $(ARGS)

check: ## format, lint, types, import contracts, documentation, deployment files
	@$(LOCAL)/check.sh

up: ## RabbitMQ, store, four services and a proxy on port 8080, as processes of their own
	@$(LOCAL)/up.sh

down: ## end what `make up` started
	@$(LOCAL)/down.sh

demo: ## a simulated fleet against `make up`, with a live table
	@$(LOCAL)/demo.sh $(ARGS)

bench: ## measure requests per second, latency, CPU and memory, here or at another server
	@$(LOCAL)/dev.sh tests.load.bench $(ARGS)

catalogue: ## CHECKOUT=path: make the catalogue of commands anew from Apple's schema
	@$(LOCAL)/dev.sh shared.apple.catalogue.make $(ARGS) $(CHECKOUT)

readable: ## CHECKOUT=path: make the list of what redacted events keep anew from Apple's schema
	@$(LOCAL)/dev.sh services.webhook.forms.make $(CHECKOUT)

lock: ## the exact versions of the image (ARGS=--upgrade: the newest)
	@$(LOCAL)/lock.sh $(ARGS)

image: ## IMAGE=name:tag: the container image of this revision, by docker or podman
	@$(LOCAL)/image.sh $(IMAGE)

clean: ## remove what was made here, except the data folder
	rm -rf .venv .run build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
