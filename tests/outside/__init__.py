"""What others see of the server, frozen: see `snapshots.py`."""
