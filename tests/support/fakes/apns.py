"""An APNs in memory: answers as scripted, else it takes every push; a gate can hold pushes up."""

import asyncio
from collections import deque

from services.push.send.apns import Push
from services.push.send.outcomes import Accepted, Outcome


class FakeApnsSender:
    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.script: deque[Outcome] = deque()
        self.by_token: dict[bytes, Outcome] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def tokens(self) -> list[bytes]:
        return [push.token for push in self.pushes]

    async def push(self, push: Push) -> Outcome:
        self.pushes.append(push)
        await self.gate.wait()
        if push.token in self.by_token:
            return self.by_token[push.token]
        return self.script.popleft() if self.script else Accepted(f"apns-{len(self.pushes)}")
