"""The push service: it wakes devices that have a command to fetch. Read it in this order.

* `intake`: push requests from the broker go to the `pusher`, and are acked when their push has ended.
* `pusher`: folds the push requests of an enrollment, pushes who has an open command, records how it went.
* `attempt`: one push: `topics` says whether it may be tried, `apns` sends it, the token's fate follows.
* `answers`, `schedule`: what APNs can say, and when the sweep tries again after it.
* `sweep`: finds who was never pushed and who stays silent, and gives them to the pusher.
* `routes`: an API client pushes one device, now. `certificates` and `app` put it all together.
"""
