"""The ground that sessions and events share: how a Redis is found, connected to and spoken with.

It knows neither sessions nor events, only commands and answers. ``Connector`` reads URLs and ready clients and opens a
``Connection``; ``Pipe`` keeps one and sends commands through it; ``Slots`` tells which server of a Cluster has a key.
What is said through them is the wings' own: ``sstream/session`` its scripts and the tracking of keys,
``sstream/pubsub`` its subscriptions and streams.
"""

__all__: list[str] = []
