"""Ports: the needs of the services towards the outside world, as Protocols, one module per owner.

The MongoDB adapters are in `shared.storage`, the RabbitMQ and in-process ones in `shared.messaging`,
fakes for unit tests in `tests.support.fakes`; one contract suite per port runs against all of them.
All methods may raise `Unavailable` (StoreUnavailable, BrokerUnavailable); every write may be
repeated. Methods take lists because one flush serves many requests.
"""
