"""The keys under which the server's parts tell each other things in the ASGI scope of a request."""

from __future__ import annotations

FACTS = "kbn.facts"  # what a handler knows of its request, for the log
HEADERS = "kbn.headers"  # by name, both as bytes; of one that is there twice, the last

# Extensions of kbn's own server: {"call": a function}
DISCONNECTED = "kbn.disconnected"  # takes what is called when the client has gone
ANSWER = "kbn.answer"  # takes status, headers and body of a whole answer; False: send it by messages
