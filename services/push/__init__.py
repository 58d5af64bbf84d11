"""The push service: it wakes devices that have a command to fetch. Read it in this order.

* `intake`: push requests from the broker go to the pusher, and are acked when their push has ended.
* `send`: the `pusher` folds the requests of an enrollment; `attempt` is one push, through `topics` and
  `apns`; `outcomes`: what APNs can answer, and when the sweep tries again after it.
* `sweep`: finds devices that were never pushed or stay silent, and gives them to the pusher.
* `routes`: an API client pushes one device, now. `certificates`: which certificate APNs sees.
"""
