"""What a rebinding writes: into the record, and where that lists many certificates, into `certificates`.

Owner of both: checkin.
"""

from shared.ports.enrollments import MOST_RETIRED, Binding
from shared.storage.database import Document, UpdateOne
from shared.storage.enrollments.identity_documents import (
    IDENTITY_FIELDS,
    OF_ONE_BINDING,
    binding_fields,
    outbox_fields,
)

DROPPED_TOGETHER = 1000
"""More leave a record only by several rebindings: a record of an earlier version may list very many."""


def rebinding_of(binding: Binding) -> UpdateOne:
    device = binding.key.id
    fields: Document = {"certificate": binding.certificate}
    fields |= binding_fields(device, binding.identity) | outbox_fields(device, binding.outbox_event)
    ended = [name for name in (*OF_ONE_BINDING, *IDENTITY_FIELDS) if name not in fields]
    update: Document = {"$set": fields, "$unset": dict.fromkeys(ended, "")}
    dropped, retired = _dropped(binding), _retired_by(binding)
    if dropped:
        fields["retired_certificates"] = [*binding.retired[len(dropped) :], *retired]
    elif retired:
        update["$addToSet"] = {"retired_certificates": {"$each": retired}}
    return UpdateOne(
        {
            "_id": device,
            "generation": binding.generation,
            "certificate": binding.replaces,
        },
        update,
    )


def notes_of(binding: Binding) -> list[UpdateOne]:
    """Notes on the certificates that leave the record's list. They are retired, whatever becomes of the
    binding."""
    return [
        UpdateOne(
            {"_id": certificate, "device": binding.key.device},
            {"$set": {"long_retired": True}},
            upsert=True,
        )
        for certificate in _dropped(binding)
    ]


def _retired_by(binding: Binding) -> list[str]:
    return [each for each in (binding.replaces, binding.retires) if each is not None]


def _dropped(binding: Binding) -> tuple[str, ...]:
    excess = len(binding.retired) + len(_retired_by(binding)) - MOST_RETIRED
    return binding.retired[: min(max(excess, 0), DROPPED_TOGETHER)]
