"""SCEP messages (RFC 8894): bytes to requests and answers to bytes, without any decision.

`message` reads the signed outside of a request, `envelope` opens and encrypts what is encrypted, `request`
reads the certificate request inside, `answer` makes signed answers. Who gets a certificate is decided
by `services.checkin.scep.server`.
"""
