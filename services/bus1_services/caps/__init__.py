"""caps: to hand out less than an object: some members, for some time, until it is taken back."""

from .attenuation import attenuate as attenuate
from .audit import Audit as Audit
from .audit import Holding as Holding
from .audit import Use as Use
from .expiry import expiring as expiring
from .gate import Revoked as Revoked
from .membrane import Membrane as Membrane
from .revocation import revocable as revocable
