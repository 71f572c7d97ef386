"""A process of an application, as far as events go: ``python -m tests.pubsub.node URL listen|attend CHANNEL ...``.

``listen CHANNEL SOCKETS``: binds that many sockets, writes ``ready``, and when the event ``end`` comes with the number
of events of each publisher, whether every socket got all of them in order.
``attend CHANNEL USER ...``: puts users on the channel's list, says it again and again, writes ``ready`` and stays.
"""

import asyncio
import sys

from sstream.pubsub import Hub, Presence, PresenceOptions, RedisBroker

from .listening import Inbox, with_history


async def listen(url: str, channel: str, sockets: str) -> None:
    broker = RedisBroker(url, deadline=20.0)
    hub = Hub(broker, channel_options=with_history)
    await hub.start()
    inboxes = [Inbox(str(number)) for number in range(int(sockets))]
    await asyncio.gather(*(hub.bind(inbox, f"channel:{channel}", "all") for inbox in inboxes))
    print("ready", flush=True)
    wrong = 0
    for inbox in inboxes:
        ((publishers, count),) = await inbox.gets_event("end")
        events = [args for event, args in inbox.events if event == "n"]
        wrong += len(events) != publishers * count
        for publisher in range(publishers):
            wrong += [number for who, number in events if who == publisher] != list(range(count))
    print(f"wrong: {wrong}", flush=True)
    await hub.close()
    await broker.close()


async def attend(url: str, channel: str, *users: str) -> None:
    broker = RedisBroker(url, deadline=20.0)
    hub = Hub(broker, channel_options=with_history)
    await hub.start()
    presence = Presence(broker, hub, PresenceOptions(ttl=3600.0, heartbeat=0.05))
    await presence.start()
    inbox = Inbox()
    await hub.bind(inbox, f"channel:{channel}")
    await asyncio.gather(*(presence.enter(Inbox(user), channel, user, {"at": "node"}) for user in users))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, url, role, *rest = sys.argv
    asyncio.run({"listen": listen, "attend": attend}[role](url, *rest))
