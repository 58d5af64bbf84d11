"""The names of command keys: Apple's in property lists, MicroMDM's in JSON.

Towards us one rule finds the key (`folded`): names are the same when they are equal without
underscores and letter case. From us (answers, OpenAPI) every key has one name (`json_name`).
"""

import re

BRANDS = {
    "FileVault": "filevault",
    "IPv6": "ip_v6",
    "VPNUUID": "vpn_uuid",
    "WiFi": "wifi",
    "eSIM": "esim",
    "iOS": "ios",
    "iTunes": "itunes",
}
"""Parts of names that are one word, however they are written."""

WHOLE_KEYS = {"HostName": "hostname", "UserName": "username"}

MISSPELT = {
    ("ActiveNSExtensions", "FilterExtensionPoints"): "filter_extensions_points",
    ("InstalledApplicationList", "ManagedAppsOnly"): "managed_appd_only",
}
"""MicroMDM misspells two keys, and its clients with it; those are their JSON names."""

_BRAND = re.compile("(" + "|".join(map(re.escape, BRANDS)) + ")")
_WORD = re.compile("[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*|[0-9]+")


def json_name(key: str) -> str:
    """The snake_case name of one of Apple's keys, as MicroMDM writes it."""
    if key in WHOLE_KEYS:
        return WHOLE_KEYS[key]
    words: list[str] = []
    for part in _BRAND.split(key):
        words += [BRANDS[part]] if part in BRANDS else _WORD.findall(part)
    return "_".join(words).lower()


def json_name_in(request_type: str, key: str) -> str:
    """The JSON name of a key at the top of a command."""
    return MISSPELT.get((request_type, key)) or json_name(key)
