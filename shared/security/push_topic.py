"""The push topic of a certificate: what a device is told to enroll under (Apple: UID of the subject)."""

from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from shared.domain.errors import Misconfigured
from shared.security.identity import UNREADABLE

TOPIC_PREFIX = "com.apple.mgmt"


class TopicOfFiles:
    """PushTopics by MDM_PUSH_CERT: the topic of the first certificate."""

    def __init__(self, topic: str | None = None) -> None:
        self._topic = topic

    @classmethod
    def load(cls, files: tuple[Path, ...]) -> "TopicOfFiles":
        """Reads the first file, if there is one; Misconfigured where it holds no push certificate."""
        return cls(_topic(files[0]) if files else None)

    async def current(self) -> str | None:
        return self._topic


def _topic(file: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    except OSError as exc:
        raise Misconfigured(f"MDM_PUSH_CERT: cannot read {file} ({exc.strerror})") from None
    except UNREADABLE:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} holds no PEM certificate") from None
    topic = str(names[0].value) if len(names) == 1 else ""
    if not topic.startswith(TOPIC_PREFIX):
        raise Misconfigured(
            f"MDM_PUSH_CERT: {file} is no MDM push certificate (no UID {TOPIC_PREFIX}... in it)"
        )
    return topic
