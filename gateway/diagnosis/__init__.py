"""Why was this request refused? The known mistakes, tried one after the other, offline and bounded.

`diagnose` computes what the sender would have signed by each mistake, and looks for it among all that looks like a
signature in the request. A match is no accident: 160 bits agree. Each mistake is a function in one of the tables:
`keys.KEY_MISTAKES`, `bodies.BODY_MISTAKES`, the functions of `messages`, `refusals.BY_REASON`. No finding shows a
secret, nor a signature that verifies.
"""

from gateway.diagnosis.cases import Case, Diagnosis, Finding, Secret
from gateway.diagnosis.search import diagnose

__all__ = ["Case", "Diagnosis", "Finding", "Secret", "diagnose"]
