"""Ways to reach a board. One module a transport; the conformance suite holds for all of them."""

from edgeopt.devices.transports.address import TRANSPORTS, Address
from edgeopt.devices.transports.link import BoardFacts, Endpoint, FirmwareLink, Link
from edgeopt.devices.transports.opening import open_firmware_link, open_link

__all__ = [
    "TRANSPORTS",
    "Address",
    "BoardFacts",
    "Endpoint",
    "FirmwareLink",
    "Link",
    "open_firmware_link",
    "open_link",
]
