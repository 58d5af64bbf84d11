"""Wires the push certificates: the connections with APNs that they open, their rotation, their API."""

from services.push.certificates.expiry import PushExpiryEvents
from services.push.certificates.install import Installation
from services.push.certificates.rotation import Rotation
from services.push.certificates.routes import TAG, CertificateRoutes
from services.push.certificates.store import CertificateStore, CertifiedSender
from services.push.certificates.tls import ClientContexts, apns_tls, load_certificates
from services.push.send.apns import Apns
from services.push.send.topics import Topics
from services.runtime.adapters import Adapters
from shared.concurrency.partitions import Share
from shared.settings.classes import PushSettings
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def certificates_feature(
    settings: PushSettings, adapters: Adapters, auth: ApiAuth, share: Share
) -> tuple[CertifiedSender, Topics, Rotation, Feature]:
    """Raises Misconfigured for a certificate that cannot be used."""
    stores, clock, metrics = adapters.stores, adapters.clock, adapters.metrics
    apns_tls(settings.apns_ca)
    files = load_certificates(settings.push_pairs, clock.now())
    contexts = ClientContexts(settings.apns_ca)
    certificates = CertificateStore(files, clock, metrics.push_certificates_refused.set)
    topics = Topics(certificates.topics, clock, metrics.push_topics_stopped.set)
    apns = Apns(settings.apns_url, contexts.of_only(files.values()), clock)
    installed = stores.push_certificates
    rotation = Rotation(
        certificates, installed, apns, topics, contexts, metrics, clock, adapters.ids
    )
    installation = Installation(
        certificates,
        rotation,
        installed,
        stores.enrolled_topics,
        clock,
        adapters.ids,
        settings.apns_ca,
    )
    expiry = PushExpiryEvents(
        certificates,
        stores.push_expiries,
        stores.journal,
        adapters.publisher,
        adapters.wanted,
        share,
        clock,
        adapters.ids,
    )
    router = CertificateRoutes(installation, auth).router
    feature = Feature((router,), (rotation.run, expiry.run), drain=apns.close, openapi_tags=(TAG,))
    return CertifiedSender(apns, certificates), topics, rotation, feature
